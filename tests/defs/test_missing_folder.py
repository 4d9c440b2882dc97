"""A dataset whose folder is not there, such as a share that is not mounted, takes nothing else down and says so."""

import shutil

import dagster as dg

from tests.support.bench_graph import Bench, write_dataset

INDEX = dg.AssetKey(["parts", "image_index"])


def run(bench: Bench, dataset: str) -> bool:
    job = bench.definitions.resolve_job_def(f"{dataset}_category")
    key = dg.AssetKey([dataset, "image_index"])
    return job.execute_in_process(
        partition_key="bolt", asset_selection=[key], instance=bench.instance, raise_on_error=False
    ).success


def answers(bench: Bench) -> list[tuple[bool, str]]:
    """What the check of the index said, oldest first: passed, and what is missing."""
    records = bench.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(INDEX, "images_found"), limit=10
    )
    events = [record.event.dagster_event.asset_check_evaluation_data for record in reversed(records) if record.event]
    return [(event.passed, str(getattr(event.metadata.get("missing"), "value", ""))) for event in events]


def test_its_categories_come_from_the_store_and_a_failing_check_says_what_is_missing(bench: Bench) -> None:
    bench.set("datasets.other", {"reader": "folder", "root": str(bench.folder / "others")})
    write_dataset(bench.folder / "others", ("bolt",))
    bench.reload()
    for category in ("bolt", "nut"):
        keys = [INDEX]
        job = bench.definitions.resolve_job_def("parts_category")
        assert job.execute_in_process(partition_key=category, asset_selection=keys, instance=bench.instance).success
    away = bench.images.with_name("away")
    bench.images.rename(away)
    bench.reload()
    partitions = bench.definitions.resolve_asset_graph().get(INDEX).partitions_def
    assert partitions is not None
    assert list(partitions.get_partition_keys()) == ["bolt", "nut"]
    assert run(bench, "other")
    assert not run(bench, "parts")
    away.rename(bench.images)
    assert run(bench, "parts")
    told = answers(bench)
    assert [passed for passed, _ in told] == [True, True, False, True]
    assert str(bench.images) in told[2][1]


def test_one_that_nobody_knows_leaves_the_others_their_jobs(bench: Bench) -> None:
    bench.tree["datasets"]["gone"] = {**bench.tree["datasets"]["parts"], "root": str(bench.folder / "none")}
    bench.set("automation", {"mode": "eager", "retrain": "0 3 * * *", "verify": "0 4 * * *"})
    dg.Definitions.validate_loadable(bench.definitions)
    assert {job.name for job in bench.definitions.jobs or ()} == {"parts_category"}
    assert {each.name for each in bench.definitions.schedules or ()} == {"parts_retraining", "parts_verification"}
    shutil.rmtree(bench.images)
    bench.reload()
    dg.Definitions.validate_loadable(bench.definitions)
    assert not bench.definitions.jobs
