"""``ad-assets describe``: every setting of every method and reader is told."""

import json

import pytest

from ad_assets.cli import main
from ad_assets.datasets import READERS
from ad_assets.methods import METHODS
from ad_assets.metrics.catalogue import METRICS


@pytest.mark.parametrize("name", [*METHODS, *READERS])
def test_each_setting_has_a_line_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", name]) == 0
    model = {**READERS, **METHODS}[name]
    first_words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[2:3].strip()]
    assert set(model.model_fields) <= set(first_words)


def test_a_setting_shows_default_range_stage_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    main(["describe", "patchcore"])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.strip()]
    texts = {name: text for name, *rest in lines for text in rest}
    assert texts["coreset_ratio"] == "fit; default 0.1; number > 0, <= 1; part of the patches kept; 1 keeps all"
    assert texts["search"].startswith('match; default "exact"; exact, ivfpq; ')
    assert texts["fit:"] == "a changed value rebuilds memory_bank; match: neighbours; score: score_maps"


def test_without_a_name_all_are_listed_and_a_wrong_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in (*METHODS, *READERS, *METRICS))
    assert main(["describe", "patchcor"]) == 2
    assert "no method or reader 'patchcor'; did you mean 'patchcore'?" in capsys.readouterr().err


def test_the_schema_of_benchmark_files_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "BenchmarkFile"
