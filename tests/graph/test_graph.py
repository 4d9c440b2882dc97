"""The graph: every asset's key, dependencies, group and partitions, what loading it costs, and what is out of date."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from syrupy.assertion import SnapshotAssertion

from ad_assets.config.load import load_config
from ad_assets.defs.build import build_definitions
from ad_assets.graph.build_attempts import attempt_path
from ad_assets.graph.graph import Graph, UpstreamError
from ad_assets.graph.stage import Stage, StageSettings
from ad_assets.store.records import write_record
from ad_assets.store.store import ArtifactStore
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
            "settings": sorted(name for name in graph.get(key).metadata if name.startswith("settings/")),
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


class Small:
    """Three assets without Dagster: the index and the features of two categories, and a board over both."""

    def __init__(self, store: ArtifactStore, setting: int = 1) -> None:
        shared: dict[str, Any] = {"group": "", "kinds": frozenset(), "description": ""}
        categories = ("bolt", "nut")
        index = Stage(("d", "index"), "index", StageSettings(1), (), categories, **shared)
        features = Stage(
            *(("d", "features"), "features", StageSettings(setting), (index,), categories),
            address=lambda upstream: {"images": upstream.of(index).parts["images"]},
            **shared,
        )
        board = Stage(
            *(("d", "board"), "board", StageSettings(1), (features,), None),
            address=lambda upstream: {name: head.version for name, head in upstream.all(features).items()},
            **shared,
        )
        self.graph = Graph([board], store)

    def make(self, asset: str, partition: str | None = None, images: str = "") -> None:
        """Leave what a run would."""
        graph, slot = self.graph, (("d", asset), partition)
        stage = graph.stages[slot[0]]
        root = stage.address is None
        head = (
            stage.make_head(partition, {"images": images or str(partition)})
            if root
            else stage.head_of(graph.upstream(slot))
        )
        artifact = graph.store.artifact(stage.kind, head.version)
        graph.store.write_text(artifact.at("it.txt"), "it")
        graph.store.heads.write(
            graph.store.head_path(*slot), head.record(artifact.sizes(artifact.commit({"metadata": {}})))
        )
        graph.refresh()

    def not_current(self) -> set[tuple[str, str | None]]:
        return {
            (key[1], partition) for key, partition in self.graph.slots() if not self.graph.is_current((key, partition))
        }

    def due(self) -> set[tuple[str, str | None]]:
        return {(key[1], partition) for key, partition in self.graph.slots() if self.graph.is_due((key, partition))}


@pytest.fixture
def small(tmp_path: Path) -> Small:
    made = Small(ArtifactStore(root=str(tmp_path)))
    for asset in ("index", "features"):
        for category in ("bolt", "nut"):
            made.make(asset, category)
    made.make("board")
    return made


def test_what_was_made_is_current_and_what_never_was_is_due_with_all_below(small: Small, tmp_path: Path) -> None:
    assert not small.not_current()
    empty = Small(ArtifactStore(root=str(tmp_path / "empty")))
    assert empty.graph.planned((("d", "features"), "bolt")) is None
    assert empty.due() == {(asset, category) for asset in ("index", "features") for category in ("bolt", "nut")}
    with pytest.raises(UpstreamError, match=r"d/index \[bolt\] is not materialized: materialize it first"):
        empty.graph.upstream((("d", "features"), "bolt"))


def test_an_asset_over_all_categories_leaves_out_what_is_out_of_date(small: Small) -> None:
    small.make("index", "bolt", "2")
    assert small.not_current() == {("features", "bolt"), ("board", None)}
    assert small.due() == {("features", "bolt")}  # the board comes after it
    upstream = small.graph.upstream((("d", "board"), None))
    assert {partition for _, partition in upstream.heads} == {"nut"}
    assert upstream.left_out == ("d/features [bolt] is out of date",)
    planned = small.graph.planned((("d", "features"), "bolt"))
    assert planned
    attempt = {"version": planned.version, "count": 1, "error": "no"}
    write_record(small.graph.store, attempt_path(("d", "features"), "bolt"), attempt)
    small.graph.refresh()
    assert small.due() == {("board", None)}  # of those that did not fail
    small.make("board")
    assert small.due() == set()
    assert small.not_current() == {("features", "bolt")}


def test_damage_is_seen_and_no_build_that_failed_to_mend_it_starts_others_for_ever(small: Small) -> None:
    slot = (("d", "features"), "bolt")
    head = small.graph.head(slot)
    assert head
    small.graph.store.delete([small.graph.store.artifact("features", head.version).at("it.txt")])
    found = Small(small.graph.store)
    found.graph.refresh()
    assert found.graph.damage(slot) == "it.txt is gone"
    assert found.due() == {("features", "bolt")}
    attempt = {"version": head.version, "count": 1, "error": "no"}
    write_record(found.graph.store, attempt_path(*slot), attempt)
    found.graph.refresh()
    assert found.due() == set()
    found.make("features", "bolt")
    assert not found.not_current()


def test_other_settings_make_all_below_stale_and_name_why(small: Small) -> None:
    other = Small(small.graph.store, setting=2)
    other.graph.refresh()
    assert (
        other.graph.stale_reason((("d", "features"), "nut"))
        == "made under another setting: another release of the code"
    )
    assert other.not_current() == {("features", "bolt"), ("features", "nut"), ("board", None)}
    assert other.graph.artifact((("d", "features"), "nut")) is None
    assert other.graph.below([("d", "features")]) == {("d", "features"), ("d", "board")}
    for category in ("bolt", "nut"):
        other.make("features", category)
    small.graph.refresh()
    # An artifact is found at its address, whichever settings made the head that is there now.
    assert small.graph.artifact((("d", "features"), "nut"))
