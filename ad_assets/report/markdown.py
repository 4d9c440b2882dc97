"""Names and texts as Markdown that shows them and does nothing else.

Defect types and file names come from folders that others filled, and Dagster's UI renders Markdown.
"""

from __future__ import annotations

import re

# An underscore within a word means nothing to Markdown; escaped there, names would be hard to read in the source.
_MARKS = re.compile(r"[\\`*\[\]<>|~&!$#{}]|(?<![^\W_])_|_(?![^\W_])")
_CODE_FENCE = 3


def fenced(text: str) -> str:
    """Lines as they are, in a fence that is longer than any within them.

    >>> print(fenced("a ``` b"))
    ````
    a ``` b
    ````
    """
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(_CODE_FENCE, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def escaped(text: str) -> str:
    r"""Any text as one line of Markdown, for a cell of a table too.

    >>> print(escaped("bad_part](javascript:x)\n| <b>"))
    bad_part\](javascript:x) \| \<b\>
    """
    return _MARKS.sub(r"\\\g<0>", one_line(text))


def one_line(text: str) -> str:
    r"""The text with blanks for its line breaks and codes for what else cannot be shown.

    >>> print(one_line("spot\n\x1b[31mred"))
    spot \x1b[31mred
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.splitlines()))
