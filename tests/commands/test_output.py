"""What commands print on a terminal, and what scripts get."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ad_assets.cli import main
from ad_assets.commands.live_progress import live_progress
from ad_assets.commands.output import show, show_table
from ad_assets.commands.plan_text import plan_rows, plan_text
from ad_assets.graph.progress import Progress
from tests.commands.test_plan_text import PLAN
from tests.support.bench_graph import config_tree
from tests.support.trees import mvtec_tree

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    """A terminal of 60 columns, as `stream` tests see one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "60"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def test_a_terminal_gets_tables_in_its_width_and_colours(screen: Terminal) -> None:
    rows, ends = plan_rows(PLAN)
    show_table(rows, plan_text(PLAN), screen, ends)
    lines = ESCAPE.sub("", screen.getvalue()).splitlines()
    assert max(map(len, lines)) <= 60
    words = " ".join(" ".join(line.split()) for line in lines)
    assert all(f"sigma {number}" in words or number in words for number in ("1", "2"))
    assert "\x1b[33mcompute" in screen.getvalue()
    assert "\x1b[36mscan" in screen.getvalue()


def test_there_is_no_colour_where_none_is_wanted(screen: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    show("FAIL  dataset parts: not there", screen)
    assert screen.getvalue() == "FAIL  dataset parts: not there\n"


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_can_do_nothing_gets_what_a_pipe_gets(
    screen: Terminal, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    monkeypatch.setenv("TERM", term)
    pipe = io.StringIO()
    for stream in (screen, pipe):
        show_table(plan_rows(PLAN)[0], plan_text(PLAN), stream)
        show("FAIL  x", stream)
    assert screen.getvalue() == pipe.getvalue() == f"{plan_text(PLAN)}\nFAIL  x\n"


def test_names_are_text_and_no_markup(screen: Terminal) -> None:
    show("ok    [red]bolt[/red] :smile:", screen)
    assert "[red]bolt[/red] :smile:" in screen.getvalue()


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)


def test_bars_come_and_go_on_a_terminal_and_nothing_on_a_pipe(
    screen: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(log: Lines) -> None:
        progress = Progress(log, "parts/features")
        for done in range(4):
            progress("images", done, 3)
        time.sleep(0.15)  # for the bars to be drawn
        progress.note("on the way")
        progress.done("built in 1 s")
        print("== next", file=sys.stderr)
        time.sleep(0.15)

    plain, drawn = Lines(), Lines()
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    with live_progress(2):
        work(plain)
    assert pipe.getvalue() == "== next\n"
    monkeypatch.setattr(sys, "stderr", screen)
    with live_progress(2):
        work(drawn)
    assert drawn.lines == plain.lines == ["parts/features: on the way", "parts/features: built in 1 s"]
    text = ESCAPE.sub("", screen.getvalue())
    assert "parts/features: images" in text
    assert "1/2" in text
    assert re.search(r"\d\d:\d\d:\d\d parts/features: built in 1 s", text)
    assert "== next" in text
    assert screen.getvalue().rstrip().endswith(("\x1b[?25h", "\x1b[2K"))  # the cursor is back, the bars are gone
    assert "\x1b[?25h" in screen.getvalue()


def test_data_check_and_describe_give_scripts_rows(tmp_path: Path, capsys: Any) -> None:
    for category in ("bolt", "nut"):
        mvtec_tree(tmp_path / "images", category)
    (tmp_path / "images/nut/train/good/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    config = tmp_path / "bench.yaml"
    config.write_text(yaml.safe_dump(config_tree(tmp_path)))
    assert main(["data", "check", "--json", "--config", str(config)]) == 1
    bolt, nut = json.loads(capsys.readouterr().out)
    assert bolt == {
        "dataset": "parts",
        "category": "bolt",
        "sound": True,
        "problems": [],
        "train": 4,
        "test_good": 2,
        "test_anomalous": 4,
    }
    assert not nut["sound"]
    assert nut["problems"][0]["path"] == "nut/train/good/broken.png"
    assert nut["problems"][0]["severity"] == "error"
    assert main(["data", "describe", "--json", "--config", str(config)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["category"], row["train"], row["defect_types"]) for row in rows] == [
        ("bolt", 4, {"crack": 2, "dirt": 2}),
        ("nut", 4, {"crack": 2, "dirt": 2}),
    ]
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    assert main(["data", "check", "--json", "--config", str(config)]) == 1
    [gone] = json.loads(capsys.readouterr().out)
    assert gone["category"] is None
    assert not gone["sound"]
    assert "does not exist" in gone["problems"][0]["message"]
