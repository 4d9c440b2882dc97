"""What a changed setting rebuilds, as `ad-assets settings` says, against what the addresses of a graph really do."""

import pytest

from ad_assets.config.sections import Setting, all_settings
from ad_assets.graph import rebuilds
from ad_assets.graph.rebuilds import rebuilt_by
from ad_assets.methods import METHODS
from tests.graph.test_addresses import EVALUATION, EXTRACTOR, NOWHERE, PRODUCTION

SETTINGS = all_settings()
HAND_MADE = {  # tables in which every setting was entered by hand, checked by flipping them
    "evaluation": EVALUATION,
    "extractors.<name>": EXTRACTOR,
    "datasets.<name>.production": PRODUCTION,
}


@pytest.mark.parametrize(
    "setting", [each for each in SETTINGS if each.section in HAND_MADE], ids=lambda each: each.path
)
def test_what_is_said_is_what_the_tables_of_addresses_say(setting: Setting) -> None:
    table = HAND_MADE[setting.section].get(setting.name, set())
    said = set(rebuilt_by(setting) or ())
    assert bool(said) == bool(table)
    assert said <= table | {"bundle"}  # which that table's graph has not


def test_settings_of_place_time_and_speed_rebuild_nothing() -> None:
    nothing = {name for name in NOWHERE if not name.startswith("production.")}
    paths = {each.path: each for each in SETTINGS}
    assert len(nothing) > 10
    assert {name: rebuilt_by(paths[name]) for name in nothing} == dict.fromkeys(nothing, ())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_parameter_rebuilds_first_what_its_own_stage_makes(name: str) -> None:
    asset = {"fit": METHODS[name].state_asset, "match": "neighbours", "score": "score_maps"}
    for setting in (each for each in SETTINGS if each.kind == name and "stage" in each.schema):
        # How many neighbours are kept for scoring may follow from a parameter of scoring.
        admitted = {asset[setting.schema["stage"]], *(["neighbours"] if setting.name == "neighbours" else [])}
        assert set(rebuilt_by(setting) or ()) <= admitted, setting.name
        assert rebuilt_by(setting), f"{name}.{setting.name} is said to rebuild nothing"


def test_every_setting_has_an_answer_and_an_index_is_addressed_by_all_options_but_its_place() -> None:
    answers = {(each.kind, each.path): rebuilt_by(each) for each in SETTINGS}
    of_readers = {place: answer for place, answer in answers.items() if place[1].count(".") == 2}
    unread = {
        path.rpartition(".")[2] for (_, path), answer in of_readers.items() if path[:9] == "datasets." and not answer
    }
    assert unread == {"root", "sealed", "source"}  # whether a test set is sealed changes no result
    assert {path.rpartition(".")[2] for (_, path), answer in answers.items() if answer is None} == {
        "preset",
        "categories",
    }


def test_a_setting_without_another_known_value_is_told_by_name() -> None:
    unknown = Setting("store", "", "unknown", {"type": "object"}, required=False)
    with pytest.raises(ValueError, match=r"store\.unknown: give its field an example"):
        rebuilt_by(unknown)


def test_what_follows_from_a_changed_stage_is_not_named() -> None:
    nodes = {"a": ("features", "1", ()), "b": ("bank", "1", ("a",)), "c": ("scores", "1", ("b",))}
    after = {**nodes, "a": ("features", "2", ()), "c": ("scores", "2", ("b",))}
    assert list(rebuilds._first(nodes, after)) == ["features"]
