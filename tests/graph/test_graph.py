"""The graph itself: every asset's key, dependencies, group, kinds and partitions, and what loading it costs."""

import subprocess
import sys

import dagster as dg
from syrupy.assertion import SnapshotAssertion

from ad_assets.config.load import load_config
from ad_assets.defs.build import build_definitions
from tests.support.places import REPOSITORY


def test_every_asset_of_the_demo(snapshot: SnapshotAssertion) -> None:
    definitions, _ = build_definitions(load_config("demo", environ={}))
    dg.Definitions.validate_loadable(definitions)
    graph = definitions.resolve_asset_graph()
    specs = {
        key.to_user_string(): {
            "deps": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            "group": graph.get(key).group_name,
            "kinds": sorted(graph.get(key).kinds),
            "owners": list(graph.get(key).owners),
            "partitions": graph.get(key).partitions_def.get_partition_keys() if graph.get(key).is_partitioned else None,
            "described": bool(graph.get(key).description),
            "settings": sorted(name for name in graph.get(key).metadata if not name.startswith("dagster/")),
            "versioned": bool(graph.get(key).code_version),
        }
        for key in graph.toposorted_asset_keys
    }
    assert specs == snapshot


def test_every_mvtec_category_is_a_partition_without_the_data() -> None:
    _, stages = build_definitions(load_config("mvtec_ad", environ={}))
    assert len(stages[0].partitions or ()) == 15


def test_definitions_load_without_torch_timm_or_matplotlib() -> None:
    code = (
        "import sys, ad_assets.definitions as d; assert d.defs; "
        "print([m for m in ('torch', 'timm', 'matplotlib', 'skimage', 'scipy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert result.stdout.strip() == "[]"
