"""Markdown made from names that others chose: a parser sees their text, and no tag, link or end of a fence."""

import pytest
from markdown_it import MarkdownIt

from ad_assets.report.markdown import escaped, fenced
from ad_assets.report.numbered.cells import Block, Cell
from ad_assets.report.numbered.text import Page, render
from ad_assets.report.studies import summarise, text_table

HOSTILE = [
    "<script>alert(1)</script>",
    '"onerror="alert(1)',
    "``` ````\n```\n<img src=x>",
    "a | b\n| c",
    "](javascript:alert(1)) [x](javascript:alert(1)",
    "line\r\nof\x0b\x1b[31m several\u2028lines",
    "<http://example.org> http://example.org",
    "&lt;b&gt; \\<b> $x$ __strong__ *em*",
    "# title\n\n- item\n    code",
]


def kinds(markdown: str) -> set[str]:
    """What a parser finds in it: kinds of tokens, opening ones without what closes them."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown)
    every = [inner for token in tokens for inner in (token, *(token.children or ()))]
    return {token.type for token in every if token.nesting >= 0}


def shown(markdown: str) -> str:
    """The text alone."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown)
    return "".join(child.content for token in tokens for child in token.children or ())


@pytest.mark.parametrize("name", HOSTILE)
def test_an_escaped_name_is_shown_and_does_nothing(name: str) -> None:
    assert kinds(f"see {escaped(name)}") <= {"paragraph_open", "inline", "text", "text_special"}
    visible = "".join(name.replace("\r\n", "\n").split()).replace("\x1b", "\\x1b")
    assert "".join(shown(escaped(name)).split()) == visible
    assert escaped("patchcore_10, WRN-101 (oracle)") == "patchcore_10, WRN-101 (oracle)"


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_in_a_fence_ends_it(name: str) -> None:
    assert kinds(fenced(f"{name}\n{name}")) == {"fence"}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_numbered_table_keeps_its_columns_whatever_the_names(name: str) -> None:
    block = Block(name, (name, "last"), ((name, (Cell(99.14, 99.0), Cell(50.0))),), name)
    text = render(Page(name, name, (block,), (name,)), "markdown")
    plain = {"heading_open", "paragraph_open", "strong_open", "bullet_list_open", "list_item_open", "inline", "text"}
    table = {"table_open", "thead_open", "tbody_open", "tr_open", "th_open", "td_open", "text_special"}
    assert kinds(text) <= plain | table
    [head] = [line for line in text.splitlines() if line.startswith("| ---")]
    assert head == "| --- | ---: | ---: |"
    assert text.splitlines()[-1].startswith("- ")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_study_says_a_defect_type_on_one_line(name: str) -> None:
    place = {"variant": "few", "category": "bolt", "metric": "image_auroc", "draw": 0, "n": 10}
    rows = [{**place, "value": 0.8, "defect_type": defect} for defect in ("", name)]
    assert len(text_table(summarise(rows), defects=True).splitlines()) == 2
