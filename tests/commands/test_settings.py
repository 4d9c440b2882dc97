"""``ad-assets settings`` and ``docs/settings.md``: every key is told, with what a change rebuilds."""

import json
from pathlib import Path

import pytest

from ad_assets.cli import main
from ad_assets.commands.settings import page
from ad_assets.config.sections import all_settings
from ad_assets.datasets import READERS
from ad_assets.methods import METHODS
from ad_assets.metrics.catalogue import METRICS

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_is_what_the_models_say_now() -> None:
    ours = [each for each in all_settings() if not each.kind or not _of_another_package(each.kind)]
    expected = page(ours)
    assert PAGE.read_text() == expected, "ad-assets settings --markdown > docs/settings.md"


def _of_another_package(kind: str) -> bool:
    model = {**READERS, **METHODS}.get(kind)
    return model is not None and not model.__module__.startswith("ad_assets.")


def test_every_key_says_what_it_means() -> None:
    assert [each.path for each in all_settings() if not each.description] == []


@pytest.mark.parametrize("name", [*METHODS, *READERS])
def test_each_setting_of_a_method_or_reader_has_a_line_of_its_own(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["settings", name]) == 0
    first_words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[2:3].strip()]
    fields = {**READERS, **METHODS}[name].model_fields
    assert set(fields) - ({"root", "on_problem"} if name == "blind" else set()) <= set(first_words)


def test_a_setting_shows_default_range_meaning_and_what_a_change_rebuilds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "patchcore"]) == 0
    lines = [line.partition("  default") for line in capsys.readouterr().out.splitlines()]
    texts = {name.strip(): f"default{text}" for name, found, text in lines if found}
    assert texts["coreset_ratio"].startswith("default 0.1; number > 0, <= 1; part of the patches kept; 1 keeps all")
    assert main(["settings", "coreset_ratio", "--json"]) == 0
    found = {each["of"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["patchcore"]["rebuilds"] == ["memory_bank"]
    assert found["patchcore"]["default"] == 0.1
    assert {"patchcluster", "patchcore_lof"} < found.keys()


def test_a_section_is_shown_with_the_sections_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "extractors", "--json"]) == 0
    found = {f"{each['section']}.{each['key']}": each for each in json.loads(capsys.readouterr().out)}
    assert found["extractors.<name>.tiles.size"]["required"] is True
    assert found["extractors.<name>.weights"]["rebuilds"] == ["features"]
    assert not [name for name in found if not name.startswith("extractors.")]


def test_without_a_name_all_are_listed_and_a_wrong_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in METRICS)
    assert all(f"      {name}: " in out for name in (*METHODS, *READERS))
    assert main(["settings", "patchcor"]) == 2
    assert "no method, reader, section or key 'patchcor'; did you mean 'patchcore'?" in capsys.readouterr().err


def test_the_schema_of_benchmark_files_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "BenchmarkFile"
