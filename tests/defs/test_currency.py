"""The check `current` and the job `bring_up_to_date`: what the UI tells of a changed setting, and how it is mended."""

import json
from pathlib import Path

import dagster as dg
import pytest

from ad_assets.defs.build import benchmark_definitions
from ad_assets.defs.currency import Currency, CurrencyLook
from ad_assets.defs.current_checks import CURRENT, REPEAT_SECONDS, Told, news
from ad_assets.graph.stage import Key
from tests.support.bench_graph import Bench, draw_image, write_image

CHANGED = "made under another setting: coreset_ratio 0.1 -> 0.5"
BANK, BOARD = ("parts", "small", "memory_bank"), ("parts", "leaderboard")


@pytest.fixture
def bench(materialized: Bench, tmp_path: Path) -> Bench:
    return materialized.copied(tmp_path)


def reasons(bench: Bench) -> dict[Key, dict[str, str]]:
    found = CurrencyLook(bench.benchmark, bench.stages)()
    return {key: dict(currency.reasons) for key, currency in found.items() if currency.reasons}


def test_a_changed_setting_shows_all_the_way_down_and_the_job_mends_it(bench: Bench) -> None:
    assert reasons(bench) == {}
    bench.set("datasets.parts.detectors.small.coreset_ratio", 0.5)
    told = reasons(bench)
    assert told[BANK] == {"bolt": CHANGED, "nut": CHANGED}
    follows = f"parts/small/memory_bank is not current ({CHANGED})"
    assert told["parts", "small", "neighbours"] == {"bolt": follows, "nut": follows}
    assert told[BOARD] == {"": "parts/small/metrics [bolt] is not current (made from something else)"}
    # Exactly what the plan of the commands would run.
    slots = {("/".join(key), category or None) for key, own in told.items() for category in own}
    assert slots == bench.plan().keys()

    definitions, stages = benchmark_definitions(bench.benchmark)
    job = definitions.resolve_job_def("bring_up_to_date")
    assert job.execute_in_process(
        instance=bench.instance, run_config={"ops": {"make": {"config": {"categories": ["bolt"]}}}}
    ).success
    assert reasons(bench)[BANK] == {"nut": CHANGED}
    assert job.execute_in_process(instance=bench.instance).success
    assert reasons(bench) == {}
    assert not bench.plan()
    asked = {"ops": {"make": {"config": {"categories": ["wahser"]}}}}
    refused = job.execute_in_process(instance=bench.instance, run_config=asked, raise_on_error=False)
    assert "no category 'wahser'; there are: bolt, nut" in str(refused.all_events)
    assert len(stages) == len(bench.stages)


def test_a_new_image_shows_at_the_image_index(bench: Bench) -> None:
    write_image(bench.images / "bolt" / "train" / "good" / "new.png", draw_image(99))
    assert reasons(bench) == {("parts", "image_index"): {"bolt": "files 1 added"}}


def test_the_button_and_the_sensor_answer_alike(bench: Bench) -> None:
    bench.set("datasets.parts.detectors.small.coreset_ratio", 0.5)
    definitions, _ = benchmark_definitions(bench.benchmark)
    sensor = next(each for each in definitions.sensors or () if each.name == "current_assets")
    repository = definitions.get_repository_def()
    assert isinstance(sensor, dg.SensorDefinition)

    def tick(cursor: str | None) -> tuple[dict[Key, dg.AssetCheckEvaluation], str]:
        context = dg.build_sensor_context(bench.instance, cursor=cursor, repository_def=repository)
        data = sensor.evaluate_tick(context)
        assert not data.run_requests
        events = [event for event in data.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
        return {tuple(event.asset_key.path): event for event in events}, data.cursor or ""

    told, cursor = tick(None)
    assert told.keys() == {stage.key for stage in bench.stages}
    assert told[BANK].severity is dg.AssetCheckSeverity.WARN
    assert told[BANK].description == f"2 of 2 categories: {CHANGED}"
    assert told[BANK].metadata["why"].value == f"bolt, nut: {CHANGED}"
    assert tick(cursor)[0] == {}
    assert all(json.loads(cursor)["/".join(key)]["passed"] == event.passed for key, event in told.items())

    checks = next(iter(definitions.asset_checks or ()))
    result = dg.materialize(
        [*(definitions.assets or ()), checks], instance=bench.instance, selection=dg.AssetSelection.checks(checks)
    )  # type: ignore[list-item]
    answered = {tuple(each.asset_key.path): each for each in result.get_asset_check_evaluations()}
    assert {key: (each.passed, each.description) for key, each in answered.items()} == {
        key: (each.passed, each.description) for key, each in told.items()
    }
    assert all(each.check_name == CURRENT for each in answered.values())


def test_a_turn_is_told_at_once_and_the_same_again_seldom() -> None:
    fine, stale = Currency(2, {}), Currency(2, {"bolt": "why"})
    key = dg.AssetKey(list(BANK))

    def told_of(
        currency: Currency, event: int, told: dict[str, Told], now: float
    ) -> tuple[list[bool], dict[str, Told]]:
        events, told = news({BANK: currency, BOARD: fine}, told, {BANK: event}, now)
        assert all(each.asset_key == key for each in events)  # Dagster has nothing of the leaderboard on record
        return [each.passed for each in events], told

    said, told = told_of(fine, 1, {}, 1000.0)
    assert said == [True]
    said, told = told_of(fine, 1, told, 5000.0)
    assert said == []
    said, told = told_of(stale, 1, told, 5001.0)
    assert said == [False]
    said, told = told_of(fine, 2, told, 5002.0)
    assert said == [True]
    for event in range(3, 9):  # another category landed: the same answer of a newer event
        said, told = told_of(fine, event, told, 5003.0 + event)
        assert said == []
    said, told = told_of(fine, 9, told, 5002.0 + REPEAT_SECONDS)
    assert said == [True]
    said, told = told_of(stale, 9, told, 5003.0 + REPEAT_SECONDS)
    assert said == [False]


def test_reasons_stay_short_however_many_there_are() -> None:
    many = Currency(4000, {f"c{number:04}": f"made under another setting: {number % 40}" for number in range(4000)})
    assert many.summary == "4000 of 4000 categories: made under another setting: 0; 39 other reasons"
    first, *_, last = many.why.splitlines()
    assert first == "c0000, c0040, c0080, c0120, c0160 and 95 more: made under another setting: 0"
    assert last == "30 more reasons: ad-assets status"
    assert len(many.why) < 2000
