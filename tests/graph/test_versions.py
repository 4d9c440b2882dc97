"""Whoever changes what is made raises its version: code that changed under an old one fails here."""

import json
from pathlib import Path

import pytest

from tests.support.versions import KNOWN, PYTHON, code_of, versions_now

REMEDY = (
    "raise its version, if it may make something else now; then, or if it makes the same, write down its code with "
    "`python -m tests.support.versions`"
)


def test_no_code_changed_under_its_version() -> None:
    written = json.loads(KNOWN.read_text(encoding="utf-8"))
    if written["python"] != PYTHON:
        pytest.skip(f"written down with Python {written['python']}, and this is {PYTHON}")
    known, now = written["modules"], versions_now()
    assert known.keys() == now.keys(), f"modules came or went: {REMEDY}"
    for module, each in now.items():
        assert each == known[module], f"{module}, version {each['version']}: {REMEDY}"


def test_comments_and_docstrings_are_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "ad_assets.graph.stages.neighbours"
    before = code_of(module)
    text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **options: text(path, **options) + '\n# a comment\n"a text"\n')
    assert code_of(module) == before
    monkeypatch.setattr(Path, "read_text", lambda path, **options: text(path, **options) + "\nONE = 1\n")
    assert code_of(module) != before
