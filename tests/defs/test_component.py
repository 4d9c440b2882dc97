"""The component `ad_assets.Benchmark`: benchmark files in anybody's project, beside each other."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

import ad_assets
from ad_assets.config.load import load_config
from ad_assets.defs.build import benchmark_definitions
from ad_assets.defs.component import BenchmarkComponent, BenchmarkScaffolder, ScaffoldOptions
from resources.benchmark import BenchmarkFile
from tests.support.bench_graph import config_tree, write_dataset


class Project:
    """A Dagster project as `create-dagster` lays it out."""

    def __init__(self, root: Path) -> None:
        self.root, self.package = root, f"project_{abs(hash(root))}"
        self.defs = root / self.package / "defs"
        self.defs.mkdir(parents=True)
        for folder in (self.defs.parent, self.defs):
            (folder / "__init__.py").touch()
        settings = f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{self.package}"\n'
        (root / "pyproject.toml").write_text(settings)

    def add(self, name: str, tree: dict[str, Any] | str = "") -> Path:
        """What `dg scaffold defs ad_assets.Benchmark NAME` writes, with another benchmark file if one is given."""
        folder = self.defs / name
        folder.mkdir()
        request = dg.ScaffoldRequest("ad_assets.Benchmark", folder, "yaml", self.root, ScaffoldOptions())
        BenchmarkScaffolder().scaffold(request)
        if tree:
            (folder / "benchmark.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        return folder / "benchmark.yaml"

    def load(self) -> dg.Definitions:
        """The definitions of the project."""
        return dg.load_from_defs_folder(path_within_project=self.root)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def test_the_package_has_the_component_and_loads_dagster_only_for_it() -> None:
    assert ad_assets.Benchmark is BenchmarkComponent
    assert "Benchmark" in dir(ad_assets)  # where `dg list components` looks
    with pytest.raises(AttributeError, match="no attribute 'Bench'"):
        ad_assets.Bench  # noqa: B018


def test_what_is_scaffolded_loads_beside_another(project: Project) -> None:
    for name in ("line1", "line-2"):
        file = project.add(name)
        tree = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump({**tree, "automation": {"mode": "eager"}}))
    definitions = project.load()
    dg.Definitions.validate_loadable(definitions)
    assert {key.path[0] for key in definitions.resolve_all_asset_keys()} == {"line1", "line_2"}
    repository = definitions.get_repository_def()
    jobs = {f"{line}_{name}" for line in ("line1", "line_2") for name in ("category", "bring_up_to_date")}
    assert {job.name for job in repository.get_all_jobs()} == {"__ASSET_JOB", *jobs}
    sensors = {sensor.name: sensor for sensor in repository.sensor_defs}
    names = ("bring_up_to_date", "current_assets", "cut_off_runs")
    assert sensors.keys() == {f"{line}_{name}" for line in ("line1", "line_2") for name in names}
    selection = sensors["line1_bring_up_to_date"].asset_selection
    assert selection is not None
    assert {key.path[0] for key in selection.resolve(repository.asset_graph)} == {"line1"}


def test_two_benchmark_files_with_one_dataset_are_refused_by_name(project: Project) -> None:
    first, second = project.add("line1"), project.add("line2")
    second.write_text(first.read_text())
    with pytest.raises(Exception, match="line2") as caught:
        project.load()
    assert str(caught.value.__cause__) == (
        f"datasets.line1 is in {first} and in {second}: the assets of both would have the same keys. Give it another "
        "name in one of them"
    )


def test_a_file_may_be_a_shipped_one_and_a_missing_one_is_named(project: Project) -> None:
    project.add("line1").unlink()
    with pytest.raises(Exception, match="line1") as caught:
        project.load()
    assert str(caught.value.__cause__).startswith(f"no benchmark file {str(project.defs / 'line1/benchmark.yaml')!r}")
    (project.defs / "line1" / "defs.yaml").write_text("type: ad_assets.Benchmark\nattributes: {file: demo}\n")
    assert dg.AssetKey(["demo", "leaderboard"]) in project.load().resolve_all_asset_keys()


def test_a_variable_for_one_file_is_not_taken_for_the_other(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.add("line1"), project.add("line2")
    monkeypatch.setenv("AD_ASSETS__DATASETS__LINE1__DETECTORS__PATCHCORE__COEVER", "1")
    with pytest.raises(Exception, match="line1"):
        project.load()
    monkeypatch.delenv("AD_ASSETS__DATASETS__LINE1__DETECTORS__PATCHCORE__COEVER")
    monkeypatch.setenv("AD_ASSETS__DATASETS__LINE1__DETECTORS__PATCHCORE__CORESET_RATIO", "0.2")
    versions = {
        spec.key.path[0]: spec.code_version
        for spec in project.load().resolve_all_asset_specs()
        if spec.key.path[-1] == "memory_bank"
    }
    assert versions["line1"] != versions["line2"]


def test_they_merge_with_a_project_that_has_a_store_an_executor_and_a_logger(tmp_path: Path) -> None:
    write_dataset(tmp_path / "images", ("bolt",))
    tree = {**config_tree(tmp_path), "automation": {"mode": "eager"}}
    del tree["datasets"]["parts"]["detectors"]["full"]
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(tree))
    ours, _ = benchmark_definitions(load_config(tmp_path / "bench.yaml", environ={}))

    @dg.asset(deps=[["parts", "leaderboard"]])
    def theirs(store: dg.ResourceParam[str], benchmark: BenchmarkFile) -> str:
        assert set(benchmark.leaderboard("parts")["detector"]) == {"small"}
        return store

    @dg.sensor(name="watch", target=[theirs])
    def watch() -> None: ...

    @dg.logger
    def terminal(_: dg.InitLoggerContext) -> Any: ...

    own = dg.Definitions(
        assets=[theirs],
        sensors=[watch],
        resources={"store": "their store", "compute": 5, "benchmark": BenchmarkFile(file=str(tmp_path / "bench.yaml"))},
        loggers={"terminal": terminal},
        executor=dg.multiprocess_executor,
    )
    merged = dg.Definitions.merge(own, ours)
    dg.Definitions.validate_loadable(merged)
    assert merged.resolve_job_def("parts_category").executor_def is dg.in_process_executor
    assert merged.resolve_implicit_global_asset_job_def().executor_def is dg.multiprocess_executor
    instance = dg.DagsterInstance.ephemeral()
    result = merged.resolve_job_def("parts_category").execute_in_process(partition_key="bolt", instance=instance)
    assert result.success
    keys = [theirs.key, dg.AssetKey(["parts", "leaderboard"])]
    result = merged.resolve_implicit_global_asset_job_def().execute_in_process(asset_selection=keys, instance=instance)
    assert result.output_for_node("theirs") == "their store"
    assert not result.filter_events(lambda event: event.is_step_failure)
