"""What the pages of assets show of their definitions."""

from pathlib import Path

import dagster as dg

from ad_assets.config.load import load_config
from ad_assets.defs.build import build_definitions
from tests.support.bench_graph import Bench


def specs(bench: Bench) -> dict[str, dg.AssetSpec]:
    return {"/".join(spec.key.path[1:]): spec for spec in bench.definitions.resolve_all_asset_specs()}


def test_every_asset_of_a_lane_shows_its_settings_and_its_backbone(bench: Bench) -> None:
    bench.set("datasets.parts.detectors.small.categories", {"nut": {"coreset_ratio": 0.5}})
    found = specs(bench)
    for name in ("memory_bank", "neighbours", "score_maps", "metrics"):
        metadata = found[f"small/{name}"].metadata
        assert metadata["settings/backbone"] == "tf_efficientnet_lite0"
        assert metadata["settings/taps"] == "blocks.2, blocks.4"
        assert metadata["settings/coreset_ratio"] == 0.1
    assert found["small/memory_bank"].metadata["settings/categories"].value["nut"]["coreset_ratio"] == 0.5
    assert found["features/lite0"].metadata["settings/extractor.resize"] == "64, 64"
    assert found["small/metrics"].metadata["settings/fpr_limits"] == "0.3, 0.05"
    assert found["category_report"].metadata["settings/style.hits"] == 3
    shown = str([dict(spec.metadata) for spec in found.values()])
    assert bench.benchmark.store.root not in shown  # where a store lies, and its options, are nobody's business


def test_every_asset_says_where_its_code_and_its_settings_stand(bench: Bench) -> None:
    for name, spec in specs(bench).items():
        references = spec.metadata["dagster/code_references"].code_references
        places = {each.label: (Path(each.file_path), each.line_number) for each in references}
        path, line = places["how it is made"]
        assert path.read_text().splitlines()[line - 1].strip().startswith(("def ", "@"))
        assert path.parent.name == "stages"
        assert places["benchmark file"][0] == bench.folder / "bench.yaml"
        if name.startswith("small/"):
            path, line = places["the method"]
            assert path.name == "patchcore.py"
            assert path.read_text().splitlines()[line - 1].startswith(("class ", "@"))


def test_owners_are_those_of_the_benchmark_file(bench: Bench) -> None:
    assert {tuple(spec.owners) for spec in specs(bench).values()} == {()}
    bench.set("owners", ["team:vision", "jo@example.com"])
    assert {tuple(spec.owners) for spec in specs(bench).values()} == {("team:vision", "jo@example.com")}
    definitions, _ = build_definitions(load_config("demo", ["owners=['team:a.b-c']"], environ={}))
    dg.Definitions.validate_loadable(definitions)
