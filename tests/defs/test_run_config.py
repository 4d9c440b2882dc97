"""What a run's own configuration cannot do: file results under addresses that were worked out from other settings."""

import json
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.repository_definition import RepositoryDefinition
from dagster._core.remote_representation.external_data import RepositorySnap

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.load import load_config
from ad_assets.graph.stages.features import features_address
from tests.support.bench_graph import Bench

RANDOM = {"backbone": "resnet18", "weights": "random(0)", "taps": ["/8", "layer3"], "resize": 256, "crop": 224}


@pytest.mark.parametrize(
    "config",
    [
        {"compute": {"config": {"precision": "bfloat16"}}},
        {"compute": {"config": {"device": "cpu"}}},
        {"store": {"config": {"root": "elsewhere"}}},
    ],
)
def test_no_run_can_have_another_store_or_other_compute_settings(bench: Bench, config: dict[str, Any]) -> None:
    job = bench.definitions.resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(["parts", "image_index"])]
    with pytest.raises(dg.DagsterInvalidConfigError, match="unexpected config entry"):
        job.execute_in_process(
            run_config={"resources": config}, asset_selection=keys, partition_key="bolt", instance=bench.instance
        )
    assert not bench.files()


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
