"""A numbered table as text for a terminal, as Markdown or as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ad_assets.report.markdown import escaped
from ad_assets.report.numbered.cells import Block, Cell
from ad_assets.report.text import aligned

FORMATS = ("text", "markdown", "csv")
WIDTH = 120
DASH = "–"


@dataclass(frozen=True)
class Page:
    """One table with all that is said below it.

    Args:
        name: its id.
        title: what it shows.
        blocks: its lines, in parts.
        remarks: what to know of ours and of the paper's: a line each.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]
    remarks: tuple[str, ...] = ()


def render(page: Page, form: str = "text", width: int = WIDTH) -> str:
    """A page in one of `FORMATS`; CSV holds the cells alone."""
    if form == "csv":
        return _csv(page)
    below = [*([legend] if (legend := _legend(page.blocks)) else []), *_partial(page.blocks), *page.remarks]
    if form == "markdown":
        return "\n\n".join(
            [
                f"## {escaped(f'{page.name}: {page.title}')}",
                *map(_markdown, page.blocks),
                "\n".join(f"- {escaped(line)}" for line in below),
            ]
        )
    texts = [f"{page.name}: {page.title}", *(_text(block, width) for block in page.blocks), "\n".join(below)]
    return "\n\n".join(text for text in texts if text)


def cell_text(cell: Cell) -> str:
    """``99.1 (99.0, +0.1)``: ours, the paper's, the difference; ``(99.0)``: the paper's, of what we have no lane for.

    >>> cell_text(Cell(99.14, 99.0)), cell_text(Cell(None, 99.0, lane=False)), cell_text(Cell(None, 99.0))
    ('99.1 (99.0, +0.1)', '(99.0)', '– (99.0)')
    """
    ours = DASH if cell.ours is None else _number(cell.ours, cell.decimals, cell.spread)
    ours += "*" if cell.covered is not None else ""
    if cell.paper is None:
        return ours if cell.lane else ""
    paper = f"{cell.paper:g}" if cell.decimals is None else _number(cell.paper, cell.decimals, cell.paper_spread)
    if not cell.lane:
        return f"({paper})"
    if cell.difference is None:
        return f"{ours} ({paper})"
    return f"{ours} ({paper}, {_signed(cell.difference, cell.decimals)})"


def _number(value: float, decimals: int | None, spread: float = 0.0) -> str:
    text = f"{value:.3g}" if decimals is None else f"{value:.{decimals}f}"
    if decimals is None and "e" in text:
        text = f"{value:.0f}" if abs(value) >= 1 else text
    return f"{text} ±{_number(spread, decimals)}" if spread else text


def _signed(value: float, decimals: int | None) -> str:
    text = _number(value, decimals)
    if float(text) == 0:
        return text.lstrip("-")
    return text if text.startswith("-") else f"+{text}"


def _legend(blocks: Sequence[Block]) -> str:
    """What the forms of cells that occur mean."""
    cells = [cell for block in blocks for cell in block.cells]
    texts = []
    if any(cell.difference is not None for cell in cells):
        texts.append("ours (the paper's, difference)")
    if any(cell.ours is not None and cell.paper is not None and cell.difference is None for cell in cells):
        texts.append("ours (the paper's), not of the same images or categories")
    if any(cell.paper is not None and not cell.lane for cell in cells):
        texts.append("in brackets alone: as printed, no detector of ours")
    if any(cell.lane and cell.ours is None for cell in cells):
        texts.append(f"{DASH}: not measured")
    if any(cell.spread or cell.paper_spread for cell in cells):
        texts.append("±: sample standard deviation over draws; of the paper's numbers, as printed")
    return "; ".join(texts)


def _partial(blocks: Sequence[Block]) -> list[str]:
    counts = sorted({cell.covered for block in blocks for cell in block.cells if cell.covered is not None})
    if not counts:
        return []
    over = f"*: over a part of the categories ({', '.join(map(str, counts))} of them)"
    compared = any(cell.difference is not None and cell.covered is not None for block in blocks for cell in block.cells)
    return [over + (", and the paper's with a difference over the same ones" if compared else "")]


def _text(block: Block, width: int) -> str:
    names = [block.corner, *(name for name, _ in block.lines)]
    columns = [
        [column, *(cell_text(cells[place]) for _, cells in block.lines)] for place, column in enumerate(block.columns)
    ]
    widest = max((len(text) for column in columns for text in column), default=0)
    room = max(width, max(map(len, names)) + 2 + widest)
    return "\n\n".join([*([block.title] if block.title else []), aligned([names, *columns], room)])


def _markdown(block: Block) -> str:
    rows = [
        [escaped(name) for name in (block.corner, *block.columns)],
        ["---", *["---:"] * len(block.columns)],
        *([escaped(name), *map(cell_text, cells)] for name, cells in block.lines),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"**{escaped(block.title)}**\n\n{table}" if block.title else table


def page_rows(page: Page) -> list[dict[str, str | float | None]]:
    """The cells of a page as JSON values.

    `spread` is the sample standard deviation of ours over draws, None where there is none to tell; `categories` says of
    how many ours is where that is not all.
    """
    return [
        {
            "table": page.name,
            "part": block.title,
            "line": name,
            "column": column,
            "ours": cell.ours,
            "spread": cell.spread or None,
            "paper": cell.paper,
            "difference": cell.difference,
            "categories": cell.covered,
        }
        for block in page.blocks
        for name, cells in block.lines
        for column, cell in zip(block.columns, cells, strict=True)
    ]


def _csv(page: Page) -> str:
    import pandas as pd

    heads = ["table", "part", "line", "column", "ours", "spread", "paper", "difference", "categories"]
    frame = pd.DataFrame(page_rows(page), columns=heads).astype(dict.fromkeys(heads[4:], float))
    return frame.to_csv(index=False, float_format="%.6g").rstrip("\n")
