"""What a run's own configuration cannot do: file results under addresses that were worked out from other settings."""

import json
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.repository_definition import RepositoryDefinition
from dagster._core.remote_representation.external_data import RepositorySnap

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.load import load_config
from ad_assets.defs.assets import run_config_of
from ad_assets.graph.stages.features import features_address
from tests.support.bench_graph import Bench

RANDOM = {"backbone": "resnet18", "weights": "random(0)", "taps": ["/8", "layer3"], "resize": 256, "crop": 224}


OTHERS = [
    {"resources": {"compute": {"config": {"precision": "bfloat16"}}}},
    {"resources": {"compute": {"config": {"device": "cpu"}}}},
    {"resources": {"store": {"config": {"root": "elsewhere"}}}},
    {"ops": {"parts__image_index": {"config": {"root": "elsewhere"}}}},
]


@pytest.mark.parametrize("config", OTHERS)
def test_a_job_refuses_another_store_or_other_compute_settings(bench: Bench, config: dict[str, Any]) -> None:
    job = bench.definitions.resolve_job_def("parts_category")
    with pytest.raises(dg.DagsterInvalidConfigError, match="unexpected config entry"):
        job.execute_in_process(run_config=config, partition_key="bolt", instance=bench.instance)
    assert not bench.files()


@pytest.mark.parametrize("config", OTHERS[:3])
def test_no_run_has_another_store_or_other_compute_settings(
    bench: Bench, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The job that Dagster makes by itself of all assets takes any key: those of a project's own resources are not ours.
    monkeypatch.chdir(bench.folder)
    before = sorted(bench.folder.iterdir())
    job = bench.definitions.resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(["parts", "image_index"]), dg.AssetKey(["parts", "features", "lite0"])]
    assert job.execute_in_process(
        run_config=config, asset_selection=keys, partition_key="bolt", instance=bench.instance
    ).success
    assert {step for step in bench.plan() if step[0] in ("parts/image_index", "parts/features/lite0")} == {
        ("parts/image_index", "nut"),
        ("parts/features/lite0", "nut"),
    }
    assert sorted(bench.folder.iterdir()) == sorted({*before, bench.folder / "store"})


@pytest.mark.parametrize(("asked", "built"), [({}, False), ({"force": True}, True), ({"verify": True}, False)])
def test_the_launchpad_asks_an_asset_to_be_built_again_or_verified(
    bench: Bench, asked: dict[str, bool], built: bool
) -> None:
    keys = [dg.AssetKey(["parts", "image_index"]), dg.AssetKey(["parts", "features", "lite0"])]
    job = bench.definitions.resolve_job_def("parts_category")

    def run(**config: bool) -> list[bool]:
        result = job.execute_in_process(
            run_config=run_config_of(keys, **config),
            asset_selection=keys,
            partition_key="bolt",
            instance=bench.instance,
        )
        assert result.success
        events = result.get_asset_materialization_events()
        return [event.step_materialization_data.materialization.metadata["reused"].value for event in events]

    assert run() == [False, False]
    assert run(**asked) == [not built] * 2
    [features] = [node for node in job.graph.nodes if node.name == keys[1].to_python_identifier()]
    fields = features.definition.config_schema.config_type.fields  # what the launchpad shows
    assert {name: field.default_value for name, field in fields.items()} == {"force": False, "verify": False}
    assert all(field.description for field in fields.values())


def test_neither_the_ui_nor_a_run_shows_a_value_of_the_store(bench: Bench) -> None:
    bench.set("store", {"root": str(bench.folder / "store"), "storage_options": {"auto_mkdir": "rather-private"}})
    job = bench.definitions.resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(["parts", "image_index"])]
    assert job.execute_in_process(asset_selection=keys, partition_key="bolt", instance=bench.instance).success
    repository = bench.definitions.get_repository_def()
    assert isinstance(repository, RepositoryDefinition)
    shown = dg.serialize_value(RepositorySnap.from_def(repository))
    shown += "".join(json.dumps(run.run_config) + str(run.tags) for run in bench.instance.get_runs())
    shown += "".join(
        dg.serialize_value(bench.instance.get_job_snapshot(run.job_snapshot_id))
        for run in bench.instance.get_runs()
        if run.job_snapshot_id
    )
    assert "rather-private" not in shown + repr(bench.benchmark)


def test_features_of_one_precision_are_never_those_of_another() -> None:
    exact, half = (Extractor.model_validate(RANDOM | {"precision": each}) for each in ("float32", "bfloat16"))
    assert exact.identity() != half.identity()
    # What was made before the precision was the extractor's is still found.
    assert (features_address(exact), features_address(half)) == ("ac29c2bfbb7de9c96bc14fea", "bec67b392b64237dff8ea2b0")


def test_the_precision_of_an_extractor_is_that_of_compute_unless_it_names_its_own() -> None:
    half = load_config("demo", ["compute.precision=bfloat16"], {})
    own = load_config("demo", ["extractors.lite0.precision=bfloat16"], {})
    assert half.extractors["lite0"] == own.extractors["lite0"]
    assert half.extractors["lite0"].precision == "bfloat16"
    mixed = load_config("demo", ["compute.precision=bfloat16", "extractors.lite0.precision=float32"], {})
    assert mixed.extractors["lite0"] == load_config("demo", (), {}).extractors["lite0"]
