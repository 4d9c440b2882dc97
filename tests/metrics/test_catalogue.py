"""One declaration a metric: tables, gates and addresses follow it."""

from typing import Any

import pytest

from ad_assets.metrics import Metric, catalogue, register_metric
from ad_assets.production.champion_history import ChampionCandidate, behind_champion, below_floors
from ad_assets.report import tables
from ad_assets.report.leaderboard import build, rows_of
from ad_assets.report.text import text_table
from tests.report.test_leaderboard import row

LOWER = Metric("image_fpr_95", "FPR at 95 % recall", better="lower", compared=True, version=1)


@pytest.fixture
def lower(monkeypatch: pytest.MonkeyPatch) -> Metric:
    monkeypatch.setattr(catalogue, "METRICS", dict(catalogue.METRICS))
    register_metric(LOWER)(float)
    return LOWER


def test_a_family_is_declared_once_and_a_whole_name_goes_before_it() -> None:
    titles = {name: catalogue.find(name).heading for name in ("aupro_0.30", "aupro_0.05", "au_spro_0.05_logical")}
    assert titles == {
        "aupro_0.30": "AUPRO 0.30",
        "aupro_0.05": "AUPRO 0.05",
        "au_spro_0.05_logical": "AU-sPRO 0.05, logical",
    }
    assert catalogue.find("image_auroc_logical").title == "image AUROC, logical"
    assert catalogue.find("image_auroc_low").aggregate == "none"
    names = ["score_images_per_second", "image_auroc", "nobody's", "aupro_0.05", "threshold", "fit_seconds"]
    order = ["image_auroc", "threshold", "aupro_0.05", "fit_seconds", "score_images_per_second", "nobody's"]
    assert sorted(names, key=catalogue.rank) == order


def test_what_nobody_declares_is_shown_and_is_never_the_best() -> None:
    rows = [row("a", "nobodys_metric", value, detector=name) for name, value in (("x", 12.345678), ("y", 2.0))]
    [(_, cells)] = tables.matrix(rows_of(build(rows, {})), "nobodys_metric").rows[:1]
    assert [cell.text for cell in cells] == ["12.35", "2"]
    assert not any(cell.best for cell in cells)


def test_where_lower_is_better_the_lowest_is_marked_and_gates_turn_round(lower: Metric) -> None:
    found = (("poor", 0.4), ("good", 0.01))
    rows = [row(category, lower.name, value, detector=name) for category in "abcdefgh" for name, value in found]
    # Over so many categories the difference is sure, and no seed has a part in it.
    board = build(rows, {}, unseeded=("poor", "good"))
    table = tables.means(rows_of(board), "standard", catalogue.compared())
    assert [(name, cell.text, cell.best, cell.lack) for name, (cell,) in table.rows] == [
        ("poor", "40.0", False, 100),
        ("good", "1.0", True, 5),
    ]
    assert "FPR at 95 % recall" in text_table(build([*rows, row("a", "image_auroc", 0.9)], {}))
    floors = {lower.name: 0.1}
    assert below_floors({lower.name: 0.1}, floors) == []
    assert below_floors({lower.name: 0.2}, floors) == ["image_fpr_95 0.2000, its floor is 0.1"]

    def candidate(state: str, value: float) -> ChampionCandidate:
        return ChampionCandidate(state, "maps", "metrics", {}, "truth", {lower.name: value})

    assert behind_champion(candidate("new", 0.05), candidate("old", 0.3), 0.05) == []
    [why] = behind_champion(candidate("new", 0.3), candidate("old", 0.05), 0.05)
    assert "image_fpr_95 0.3000 after 0.0500" in why


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"name": "image_auroc"}, "given once"),
        ({"name": "aupro_0.12"}, "given once"),
        ({"name": "Of mine"}, "lower case letters"),
        ({"version": 0}, "give it a version"),
    ],
)
def test_a_name_that_is_taken_and_a_metric_without_version_are_refused(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register_metric(Metric(**({"name": "mine", "title": "mine", "version": 1} | facts)))


def test_facts_of_other_packages_metrics_are_told_for_addresses(lower: Metric) -> None:
    facts = catalogue.registered_facts()
    assert set(facts) == {lower.name}
    assert (facts[lower.name]["version"], facts[lower.name]["better"]) == (1, "lower")
