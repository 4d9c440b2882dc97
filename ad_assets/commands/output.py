"""What commands print: plain text to files and pipes, the same in a terminal's width and colours, and JSON for scripts.

``rich`` is imported for a terminal alone, so that what scripts start does not wait for it. NO_COLOR is heeded by it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from ad_assets.report.text import aligned

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# What a line, or what stands in a column of it, begins with -> its colour.
COLOURS = {
    "green": ("ok", "nominal", "reuse"),
    "red": ("FAIL", "FAILED", "FAULT", "anomalous", "failed"),
    "yellow": (
        *("LEFT OUT", "OUT OF DATE", "WAITING", "STALE", "NOT CHAMPION", "NOT RECORDED", "UNREADABLE"),
        *("DRIFT", "QUIET", "BESIDE", "compute", "warning"),
    ),
    "cyan": ("scan",),
}
_COLOUR_OF = {word: colour for colour, words in COLOURS.items() for word in words}
_VERDICT = re.compile(rf"(?:^ *|  )({'|'.join(sorted(_COLOUR_OF, key=len, reverse=True))})(?=[ ,:]|$)", re.MULTILINE)


def add_json(command: argparse._ActionsContainer, rows: str) -> None:
    """Add the option ``--json``: an array of objects on standard output, and nothing else there."""
    command.add_argument("--json", action="store_true", help=f"print {rows} as JSON")


def print_json(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows as a JSON array of objects."""
    print(json.dumps(list(rows), indent=1, allow_nan=False))


def terminal(stream: TextIO | None = None) -> Console | None:
    """The terminal that a stream (default: standard output) is; None: a file, a pipe, or it knows no cursor."""
    stream = stream or sys.stdout
    if not stream.isatty() or os.environ.get("TERM", "") in ("", "dumb"):
        return None
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)


def show(text: str, stream: TextIO | None = None) -> None:
    """Print lines; on a terminal what they begin with is coloured, and what is too long for it continues below."""
    console = terminal(stream)
    if console is None:
        print(text, file=stream or sys.stdout)
    else:
        console.print(_coloured(text))


def show_table(
    rows: Sequence[Sequence[str]], plain: str | None = None, stream: TextIO | None = None, sections: Iterable[int] = ()
) -> None:
    """Print a table, whose first row are its heads.

    Args:
        rows: texts without control characters.
        plain: what is printed where there is no terminal; None: aligned columns.
        stream: where to (default: standard output).
        sections: numbers of rows, from 0 without the heads, that a line follows.
    """
    console = terminal(stream)
    if console is None:
        text = aligned(list(zip(*rows, strict=True)), justify=str.ljust) if plain is None else plain
        print(text, file=stream or sys.stdout)
        return
    from rich import box
    from rich.table import Table

    ends = set(sections)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False)
    for head in rows[0]:
        table.add_column(head, overflow="fold")
    for number, row in enumerate(rows[1:]):
        table.add_row(*map(_coloured, row), end_section=number in ends)
    console.print(table)


def _coloured(text: str) -> Text:
    from rich.text import Text

    shown = Text(text)
    for found in _VERDICT.finditer(text):
        shown.stylize(_COLOUR_OF[found[1]], *found.span(1))
    return shown
