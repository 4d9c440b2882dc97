"""``deploy/celery``: two workers, artifacts on S3, records in PostgreSQL; workers die and settings change."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from ad_assets.graph.graph import Graph
from ad_assets.store.layout import MARKER
from ad_assets.store.store import ArtifactStore
from tests.conftest import new_s3_store
from tests.support.bench_graph import Bench, Slot, write_dataset
from tests.support.deployment import DEPLOY, Deployment, need_packages, postgres, redis, wait_until

need_packages("dagster_celery", "dagster_postgres", "redis")
pytestmark = pytest.mark.slow
CATEGORIES = ("bolt", "nut")
# Wall-clock figures differ from run to run; everything else of a leaderboard row must not.
TIMED = ("seconds",)


class Plant(Bench):
    """A benchmark whose runs go to the workers of a deployment."""

    deployment: Deployment

    def use_store(self, store: ArtifactStore) -> None:
        """Name an S3 store in the benchmark file, and press Reload."""
        self.set("store", {"root": store.root, "storage_options": dict(store.storage_options)})
        self.deployment.reload()

    def start(self, category: str | None, **tags: str) -> str:
        """Materialize all assets of a category, or those over all categories, as the UI does."""
        chosen = [stage.key for stage in self.stages if (stage.partitions is None) == (category is None)]
        return self.deployment.launch(chosen, category, **tags)

    def finish(self, *runs: str) -> None:
        """Wait until runs have succeeded."""
        for run in runs:
            assert self.deployment.wait(run) is dg.DagsterRunStatus.SUCCESS, self.deployment.story(run)

    def everything(self) -> None:
        """Both categories and what gathers them, on the workers."""
        self.finish(*(self.start(category) for category in CATEGORIES))
        self.finish(self.start(None))


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> Iterator[Plant]:
    """Everything of ``deploy/README.md`` for several machines, on this one."""
    folder = tmp_path_factory.mktemp("celery")
    write_dataset(folder / "images")
    yaml = (DEPLOY / "celery" / "dagster.yaml").read_text()
    assert yaml.count("poll_interval_seconds: 30") == 1
    yaml = yaml.replace("poll_interval_seconds: 30", "poll_interval_seconds: 3")  # or the test waits for the daemon
    with postgres() as variables, redis(folder) as url, pytest.MonkeyPatch.context() as patch:
        broker = {"DAGSTER_CELERY_BROKER": f"{url}/0", "DAGSTER_CELERY_BACKEND": f"{url}/1"}
        settings = {"AD_ASSETS_CONFIG": str(folder / "bench.yaml"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        for name, value in {**variables, **broker, **settings}.items():
            patch.setenv(name, value)
        bench = Plant(folder, dg.DagsterInstance.ephemeral())
        deployment = Deployment(folder, os.environ, yaml)
        patch.setenv("AD_ASSETS_CODE_PORT", str(deployment.port))
        try:
            deployment.start()
            bench.deployment, bench.instance = deployment, deployment.instance
            yield bench
        finally:
            deployment.stop()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The leaderboard of one process on a local store."""
    return board(Bench.materialized(tmp_path_factory.mktemp("one_process")).benchmark.store)


def board(store: ArtifactStore) -> list[dict[str, Any]]:
    head = store.read_head(("parts", "leaderboard"), None)
    assert head is not None
    rows = store.read_table(store.artifact("leaderboard", head["version"]).at("leaderboard.parquet")).to_pylist()
    return [{k: v for k, v in row.items() if k not in TIMED} for row in rows if row["protocol"] != "timing"]


def assert_sound(store: ArtifactStore) -> None:
    """Every committed artifact, head and feature file can be read, and heads point to what exists."""
    # Heads first: a run that goes on meanwhile commits an artifact before it points to it.
    heads = {store.read_json(file.path)["version"] for file in store.files("heads")}
    artifacts = [file.path for file in store.files("artifacts") if file.path.endswith(f"/{MARKER}")]
    for path in artifacts:
        _, kind, version, _ = path.split("/")
        assert not store.artifact(kind, version).damaged(), path
    assert heads <= {path.split("/")[2] for path in artifacts}
    for file in store.files("features"):
        if file.path.endswith(".safetensors"):
            store.check_tensors(file.path)


def outdated(plant: Plant) -> set[Slot]:
    """What is not as the benchmark file has it, by the store."""
    graph = Graph(plant.stages, plant.benchmark.store)
    graph.refresh()
    return {("/".join(key), partition) for key, partition in graph.slots() if not graph.is_current((key, partition))}


def to_compute(plant: Plant) -> set[Slot]:
    """What a plan would make, by the records of the instance.

    Of two runs at once, Dagster may remember the other category's event as the last one that a step has seen, and marks
    what the step made as unsynced (`CachingStaleStatusResolver._is_dep_updated`). Such a step finds its artifact.
    """
    return {slot for slot, action in plant.plan().items() if action != "reuse"}


def process_after(plant: Plant, run: str, asset: str) -> int:
    """Wait until a run has made an asset; returns the process that it goes on in."""
    deployment = plant.deployment
    step = f"parts/{asset}".replace("/", "__")

    def running() -> int:
        events = [log.dagster_event for log in deployment.instance.all_logs(run) if log.dagster_event]
        if not any(event.is_step_success and event.step_key == step for event in events):
            return 0
        [started] = [e.message for e in events if e.message and e.message.startswith("Started process for run")]
        return int(started.rpartition("pid: ")[2].rstrip(")."))

    return wait_until(running, 90, lambda: deployment.story(run), pause=0.02)


def retry_of(plant: Plant, run: str) -> str:
    """Wait until monitoring has marked a run as failed and the daemon has started another; returns that one's id."""
    deployment = plant.deployment
    assert deployment.wait(run) is dg.DagsterRunStatus.FAILURE
    again = dg.RunsFilter(tags={"dagster/parent_run_id": run})
    found = wait_until(lambda: deployment.instance.get_runs(again), 60, lambda: deployment.story(run))
    return found[0].run_id


def feature_files(store: ArtifactStore) -> dict[str, tuple[int, float]]:
    return {file.path: (file.size, file.changed) for file in store.files("features")}


@pytest.fixture(scope="module")
def made(plant: Plant, s3_endpoint: str) -> ArtifactStore:
    """A store in which the workers have made everything."""
    plant.use_store(new_s3_store(s3_endpoint))
    plant.everything()
    return plant.benchmark.store


def test_two_workers_and_s3_give_the_leaderboard_of_one_process(
    plant: Plant, made: ArtifactStore, expected: list[dict[str, Any]]
) -> None:
    assert board(made) == expected
    for worker in plant.deployment.workers:
        assert "Task execute_job" in worker.output(), "a worker had nothing to do"
        assert "amqp://" not in worker.output(), "celery.yaml was ignored"
    assert not outdated(plant)
    assert not to_compute(plant)
    assert_sound(made)


def test_the_next_run_after_a_reload_has_the_changed_file(plant: Plant, made: ArtifactStore) -> None:
    banks = {lane: made.read_head(("parts", lane, "memory_bank"), "bolt") for lane in ("small", "full")}
    plant.set("datasets.parts.detectors.small.coreset_ratio", 0.3)
    try:
        plant.deployment.reload()
        # Both workers have run the old file, and get a run each.
        plant.finish(*(plant.start(category) for category in CATEGORIES))
        assert made.read_head(("parts", "small", "memory_bank"), "bolt") != banks["small"]
        assert made.read_head(("parts", "full", "memory_bank"), "bolt") == banks["full"]
        # All is as the new file has it, but for what gathers both categories.
        assert outdated(plant) == to_compute(plant) == {("parts/leaderboard", None), ("parts/report", None)}
    finally:
        plant.set("datasets.parts.detectors.small.coreset_ratio", 0.1)


def test_runs_whose_workers_die_are_started_again_and_nothing_is_lost(
    plant: Plant, s3_store: ArtifactStore, expected: list[dict[str, Any]]
) -> None:
    plant.use_store(s3_store)
    deployment = plant.deployment

    # One run dies alone, as the kernel has it when memory is short.
    bolt, nut = plant.start("bolt"), plant.start("nut")
    os.kill(process_after(plant, bolt, "features/lite0"), signal.SIGKILL)
    # The other with its worker, as in a power cut. Another machine comes, with a queue of its own too.
    process = process_after(plant, nut, "image_index")
    [worker] = [each for each in deployment.workers if os.getpgid(process) == each.pid]
    worker.kill()
    deployment.workers.remove(worker)
    added = deployment.start_worker(2, queues=["dagster", "big"])

    assert deployment.status(nut) is dg.DagsterRunStatus.STARTED, "killed too late to tell anything"
    assert_sound(s3_store)
    before = feature_files(s3_store)
    again = [retry_of(plant, run) for run in (bolt, nut)]
    assert "Celery task failed" in deployment.events(bolt)
    assert "no longer runs it" in deployment.events(nut)
    plant.finish(*again)
    after = feature_files(s3_store)
    assert {path: after[path] for path in before} == before, "features were extracted again"

    wait_until(lambda: " ready." in added.output(), 60, added.output)
    assert all(f".> {queue} " in added.output() for queue in ("dagster", "big"))
    done = added.output().count("Task execute_job")
    plant.finish(plant.start(None, **{"dagster-celery/queue": "big"}))
    assert added.output().count("Task execute_job") > done, "the run did not go to the queue of its tag"
    assert board(s3_store) == expected
    assert not outdated(plant)
    assert not to_compute(plant)
    assert_sound(s3_store)
