"""Without a GPU the command refuses at once; its page is Markdown that says what was measured on what."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import __main__ as command
from tests.gpu.hardware import Page, apart


def test_without_a_gpu_it_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(pytest, "main", lambda _: pytest.fail("nothing is run"))
    monkeypatch.setattr(sys, "argv", ["tests.gpu"])
    for built, lacks in ((None, "built without CUDA"), ("13.0", "NVIDIA device|cannot use the device")):
        monkeypatch.setattr(torch.version, "cuda", built)
        assert command.main() == 2
        said = capsys.readouterr().err
        assert said.startswith("make verify-gpu needs a CUDA device.")
        assert any(part in said for part in lacks.split("|"))


def test_the_page_has_a_table_under_each_heading(tmp_path: Path) -> None:
    page = Page("a card")
    for name in ("one", "two"):
        page.row("Kernels", ("kernel", "s"), name, 0.12345)
    page.text("Profile", "line")
    page.write(tmp_path / "gpu.md")
    text = (tmp_path / "gpu.md").read_text()
    assert "a card" in text
    assert "## Kernels\n\n| kernel | s |\n|---|---|\n| one | 0.123 |\n| two | 0.123 |" in text
    assert "## Profile\n\n```\nline\n```" in text


def test_differences_are_parts_of_the_range() -> None:
    expected = [torch.tensor([0.0, 50.0, torch.inf])]
    assert apart([torch.tensor([0.0, 50.5, torch.inf])], expected) == pytest.approx(0.01)
    with pytest.raises(AssertionError):
        apart([torch.tensor([0.0, torch.inf, torch.inf])], expected)
