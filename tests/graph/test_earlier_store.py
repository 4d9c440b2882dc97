"""A store that earlier code made is found: one lane a method, an ensemble, a study, a comparison.

Whoever changes what a stage makes raises its version on purpose, and gives up the lanes that this rebuilds here: score
maps and what follows from them were made anew when other nominal images came to be scored left-out.
"""

import shutil
from pathlib import Path

import pytest

from ad_assets.cli import main

EARLIER = Path(__file__).parents[1] / "data" / "earlier_store"


def test_nothing_of_a_store_of_earlier_code_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    assert main(["materialize", "--config", "bench.yaml"]) == 0
    assert "0 built, 36 found in the store, 0 failed" in capsys.readouterr().out
    assert main(["status", "--config", "bench.yaml"]) == 0
    assert "everything is up to date" in capsys.readouterr().out
