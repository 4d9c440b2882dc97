"""Promise: what a disk or a hand has changed in the store is told by name and made anew; no number changes in silence.

Every kind of stored file of a small whole graph is damaged in every way, without Dagster, with a stub for a backbone.
"""

import dataclasses
import json
import logging
import random
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import torch

from ad_assets.backbones.extraction import Extraction, all_finite
from ad_assets.commands import doctor
from ad_assets.config.benchmark import Benchmark
from ad_assets.graph.build import materialize
from ad_assets.graph.garbage import unreferenced
from ad_assets.graph.graph import Graph
from ad_assets.graph.stage import Slot, Stage, Work
from ad_assets.graph.stages import extraction, feature_files
from ad_assets.graph.stages.image_index import UNKNOWN, changed_files
from ad_assets.report.picture_files import to_png
from ad_assets.report.studies import Summary
from ad_assets.store import records
from ad_assets.store.artifact import Artifact
from ad_assets.store.layout import artifact_folder
from ad_assets.store.records import recall
from ad_assets.store.store import ArtifactStore, CorruptArtifactError, MissingFileError
from ad_assets.store.tables import recall_table
from tests.support.bench_graph import Bench, draw_image, write_dataset, write_image

LOG = logging.getLogger(__name__)
OF_CHECKSUMS = ("checksum", "files", "beside")
RECORDS = ("heads", "scans", "known_files")
SHOWN = ("leaderboard", "category_report", "report")


class StubBackbone:
    """Two taps of pooled pixels."""

    def preprocess(self, rgb: np.ndarray) -> torch.Tensor:
        """The pixels, as fractions."""
        return torch.from_numpy(np.asarray(rgb, np.float32) / 255).permute(2, 0, 1).contiguous()

    def stack(self, images: list[torch.Tensor]) -> torch.Tensor:
        """A batch."""
        return torch.stack(images)

    def extract_each(self, batches: Iterable[tuple[Any, torch.Tensor]]) -> Iterator[tuple[Any, Extraction]]:
        """One tap finer than the other."""
        for label, batch in batches:
            taps = [torch.nn.functional.avg_pool2d(batch, size) for size in (8, 16)]
            yield label, Extraction(taps, all_finite(taps), 0.01)


def stub_chart(_title: str, summary: Summary) -> bytes:
    """A picture of its own for each table: drawing charts would take half of all."""
    return to_png(draw_image(zlib.crc32(repr(summary).encode())))


@pytest.fixture(scope="module", autouse=True)
def stub_backbone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "load_backbone", lambda *_: StubBackbone())
        patch.setattr("ad_assets.store.artifact.PAUSES", (0.0, 0.0))
        for module in ("ad_assets.graph.stages.studies", "ad_assets.report.studies"):
            patch.setattr(f"{module}.plot", stub_chart)
        yield


class Whole:
    """A store in which all of a benchmark is materialized, and a copy of it."""

    def __init__(self, folder: Path) -> None:
        write_dataset(folder / "images")
        bench = Bench(folder, dg.DagsterInstance.ephemeral())
        del bench.tree["datasets"]["parts"]["detectors"]["full"]
        bench.tree["datasets"]["parts"]["studies"] = {"sizes": {"base": "small", "vary": {"coreset_ratio": [0.1, 0.5]}}}
        bench.reload()
        self.benchmark: Benchmark = bench.benchmark
        self.stages: list[Stage] = bench.stages
        self.store: ArtifactStore = self.benchmark.store
        self.root = Path(self.store.root)
        self.run()
        self._copy = folder / "copy"
        shutil.copytree(self.root, self._copy)
        self.results = self.numbers()

    def slots(self) -> list[tuple[Stage, str | None]]:
        return [(stage, name) for stage in self.stages for name in stage.partitions or (None,)]

    def run(self, **options: bool) -> set[str]:
        """Materialize everything in order; returns the kinds of what was built."""
        built = set()
        for stage, partition in self.slots():
            result = materialize(stage, partition, self.store, self.benchmark.compute, LOG, **options)
            assert result.metadata
            if not result.found:
                built.add(stage.kind)
        return built

    def due(self) -> set[Slot]:
        graph = Graph(self.stages, self.store)
        graph.refresh()
        return set(filter(graph.is_due, graph.slots()))

    def numbers(self) -> dict[str, Any]:
        """Every result that does not tell of time, read as the graph reads it."""
        found: dict[str, Any] = {}
        for stage, partition in self.slots():
            head = self.store.read_head(stage.key, partition)
            assert head, stage.name
            artifact = self.store.artifact(stage.kind, head["version"])
            assert artifact.damaged(deep=True) == [], stage.name
            found[f"{stage.name} {partition}"] = head["version"], contents(artifact)
        return found

    def restore(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self._copy, self.root)

    def sibling(self, path: str) -> Path | None:
        """The same file of the other category, or of another image."""
        own = self.root / path
        return next((p for p in sorted(self._copy.rglob("*")) if self.is_sibling(p.relative_to(self._copy), own)), None)

    def is_sibling(self, other: Path, own: Path) -> bool:
        path = own.relative_to(self.root)
        if path.parts[0] == "features":
            return other.parts[0] == "features" and other.suffix == path.suffix and other != path
        if path.parts[0] == "artifacts":
            same = other.parts[:2] == path.parts[:2] and other.parts[3:] == path.parts[3:]
            return same and other != path
        return other.parts[:-1] == path.parts[:-1] and other != path


def contents(artifact: Artifact) -> dict[str, Any]:
    """What the files of an artifact say, as far as it is the same in each run."""
    found: dict[str, Any] = {}
    for file in artifact.store.files(artifact.path):
        name = file.path.rpartition("/")[2]
        if name.endswith(".safetensors"):
            found[name] = {key: value.tolist() for key, value in artifact.store.read_tensors(file.path).items()}
        elif name == "rows.json":
            found[name] = [
                row
                for row in artifact.store.read_json(file.path)
                if "seconds" not in row["metric"] and "per_second" not in row["metric"]
            ]
        elif name in ("index.parquet",):
            found[name] = artifact.store.read_table(file.path).to_pylist()
        elif name in ("images.json", "scores.json", "train.json", "features.json"):
            found[name] = artifact.store.read_json(file.path)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


def empty(path: Path, sibling: Path | None) -> bool:
    path.write_bytes(b"")
    return True


def cut(path: Path, sibling: Path | None) -> bool:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    return True


def flip(path: Path, sibling: Path | None) -> bool:
    data = bytearray(path.read_bytes())
    place = random.Random(path.name).randrange(len(data))  # noqa: S311 - repeatable, not secret
    data[place] ^= 1 << len(data) % 7
    path.write_bytes(data)
    return True


def remove(path: Path, sibling: Path | None) -> bool:
    path.unlink()
    return True


def swap(path: Path, sibling: Path | None) -> bool:
    if sibling is None or sibling.read_bytes() == path.read_bytes():
        return False
    path.write_bytes(sibling.read_bytes())
    return True


WAYS = (empty, cut, flip, remove, swap)
Way = Callable[[Path, Path | None], bool]


def victims(whole: Whole) -> list[str]:
    """One stored file of every kind: of the first category, or of all."""
    found: dict[object, str] = {}
    own = {head["version"] for stage, name in whole.slots() if name != "nut" and (head := read(whole, stage, name))}
    for file in whole.store.files():
        parts = file.path.split("/")
        if parts[0] == "artifacts":
            if parts[2] in own or parts[1] == "study_rows":
                found.setdefault((parts[1], parts[3]), file.path)
        elif parts[0] in ("features", *RECORDS) and parts[-1] != "nut.json":
            found.setdefault(
                file.path if parts[0] != "features" else "features", whole.store.shard_of(file.path) or file.path
            )
    return list(found.values())


def read(whole: Whole, stage: Stage, partition: str | None) -> dict[str, Any] | None:
    return whole.store.read_head(stage.key, partition)


def told_when_read(store: ArtifactStore, path: str, held: Sequence[str]) -> str:
    """What reading a file, or the files that it held as a shard, as the graph does says of it."""
    readers = {".json": store.read_json, ".parquet": store.read_table, ".safetensors": store.read_tensors}
    folder = artifact_folder(path)
    try:
        if path.endswith("/artifact.json") and folder:
            Artifact(store, folder).record()
        elif held:
            store.read_many_tensors(held)
        else:
            readers.get(Path(path).suffix, store.read_bytes)(path)
    except (CorruptArtifactError, MissingFileError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("way", WAYS)
def test_no_damage_is_silent(whole: Whole, way: Way, caplog: pytest.LogCaptureFixture) -> None:
    whole.restore()
    records._WARNED.clear()
    dataset = whole.benchmark.datasets["parts"]
    for path in victims(whole):
        place = whole.root / path
        before = place.read_bytes()
        held = [file.path for file in whole.store.files("features") if whole.store.shard_of(file.path) == path]
        look = recall_table if path.endswith(".parquet") else recall
        record = look(whole.store, path) if path.split("/")[0] in RECORDS else None
        if not way(place, whole.sibling(path)):
            continue
        store = ArtifactStore(root=str(whole.root))  # as another process: it remembers no record
        if record:
            now = look(store, path)
            assert now in (None, record), path
            assert way is remove or now == record or path in caplog.text, path
            if now is None and path.startswith("heads/"):
                assert whole.due(), path
            if now is None and path.startswith("scans/"):
                assert changed_files(dataset, store) == {"bolt": UNKNOWN}
        else:
            error = told_when_read(store, path, held)
            assert any(name in error for name in held or [path]), path
            assert "`ad-assets materialize --verify`" in error
            if way not in (flip, swap) and "/study_rows/" not in path:
                assert whole.due(), path  # by names and sizes alone
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(before)
    assert not whole.due()


def test_the_doctor_names_what_is_damaged_and_the_remedy(whole: Whole) -> None:
    whole.restore()
    assert doctor._stored_files(whole.benchmark).healthy
    head, bank = (next(path for path in victims(whole) if text in path) for text in ("heads/parts/small", "state.safe"))
    empty(whole.root / head, None)
    found = doctor._stored_files(whole.benchmark)
    assert not found.healthy
    assert f"{head} is damaged (it is empty): `ad-assets materialize --verify`" in found.message
    whole.restore()
    cut(whole.root / bank, None)
    found = doctor._stored_files(whole.benchmark)
    assert re.search(r"parts/small/memory_bank/bolt.*: state.safetensors is damaged \(.* bytes of .*\)", found.message)


def test_the_doctor_names_a_damaged_table_of_known_files(whole: Whole) -> None:
    whole.restore()
    table = next(path for path in victims(whole) if path.startswith("known_files/"))
    cut(whole.root / table, None)
    found = doctor._stored_files(whole.benchmark)
    assert not found.healthy
    assert f"{table} is damaged" in found.message


def test_a_damaged_head_keeps_garbage_from_being_collected(whole: Whole) -> None:
    whole.restore()
    assert unreferenced(Graph(whole.stages, whole.store), older_than=0) == []
    (whole.root / "artifacts" / "stray").write_text("not ours")
    assert unreferenced(Graph(whole.stages, whole.store), older_than=0) == []
    empty(whole.root / "heads/parts/small/metrics/bolt.json", None)
    with pytest.raises(CorruptArtifactError, match=r"metrics/bolt\.json is damaged"):
        unreferenced(Graph(whole.stages, whole.store), older_than=0)


def test_a_store_from_before_there_were_checksums_is_read_and_verify_adds_them(whole: Whole) -> None:
    whole.restore()
    for path in [*whole.root.rglob("artifact.json"), *(whole.root / "heads").rglob("*.json")]:
        old = {key: value for key, value in json.loads(path.read_text()).items() if key not in OF_CHECKSUMS}
        path.write_text(json.dumps(old))
    assert not whole.due()
    assert whole.run() == set()
    assert whole.run(verify=True) == set()
    assert whole.numbers() == whole.results
    bank = next(path for path in victims(whole) if path.endswith("state.json"))
    flip(whole.root / bank, None)
    assert whole.run(verify=True) == {"memory_bank"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("share", range(3))
def test_all_damage_is_mended(whole: Whole, way: Way, share: int) -> None:
    whole.restore()
    for path in victims(whole)[share::3]:
        way(whole.root / path, whole.sibling(path))
    # What is cut or gone is due without being read.
    whole.run(verify=way in (flip, swap))
    assert whole.numbers() == whole.results
    assert not whole.due()
    assert changed_files(whole.benchmark.datasets["parts"], whole.store) == {}
    assert whole.run(verify=True) == set()


@pytest.fixture
def landed(whole: Whole) -> Iterator[Whole]:
    """The store as it was, and one more training image."""
    whole.restore()
    path = whole.root.parent / "images" / "bolt" / "train" / "good" / "new.png"
    write_image(path, draw_image(9))
    yield whole
    path.unlink()


def test_what_was_made_of_a_damaged_state_follows_the_mended_one(landed: Whole, tmp_path: Path) -> None:
    # A state that landing images only updated is fitted on all of them when it is mended, at the address that it had.
    shutil.rmtree(landed.root)
    landed.run()
    fresh = landed.numbers()
    landed.restore()
    landed.run()
    updated = landed.numbers()
    lane = [f"parts/small/{kind} bolt" for kind in ("memory_bank", "neighbours", "score_maps", "metrics")]
    for name in lane:
        assert (updated[name][0], updated[name] == fresh[name]) == (fresh[name][0], False), name
    shutil.copytree(landed.root, tmp_path / "updated")
    for way in (flip, cut):
        shutil.rmtree(landed.root)
        shutil.copytree(tmp_path / "updated", landed.root)
        way(landed.root / "artifacts" / "memory_bank" / fresh[lane[0]][0] / "state.safetensors", None)
        built = landed.run(verify=way is flip)  # what is cut is due without being read
        assert {"memory_bank", "neighbours", "score_maps", "metrics", *SHOWN} <= built
        assert landed.numbers() == fresh
        assert not landed.due()
        assert landed.run(verify=True) == set()


def test_a_run_that_ends_between_a_mended_state_and_what_reads_it_leaves_that_due(whole: Whole) -> None:
    whole.restore()
    [state] = [stage for stage in whole.stages if stage.kind == "memory_bank"]
    head = whole.store.read_head(state.key, "bolt")
    assert head
    place = whole.store.artifact("memory_bank", head["version"]).at("state.safetensors")
    other = {name: value + 1 for name, value in whole.store.read_tensors(place).items()}

    def mend(work: Work) -> dict[str, Any]:
        made = state.build(work) if state.build else {}
        work.store.write_tensors(place, other)  # as a fit with another history
        return made

    empty(whole.root / place, None)
    compute = whole.benchmark.compute
    materialize(dataclasses.replace(state, build=mend), "bolt", whole.store, compute, LOG)
    assert {("parts", "small", "neighbours"), ("parts", "small", "score_maps")} <= {key for key, _ in whole.due()}
    assert {"neighbours", "score_maps", "metrics", *SHOWN} <= whole.run()
    assert not whole.due()


def test_features_that_an_earlier_release_stored_under_the_id_of_other_bytes_are_found(whole: Whole) -> None:
    whole.restore()
    head = whole.store.read_head(("parts", "features", "lite0"), "bolt")
    assert head
    listed = whole.store.read_json(whole.store.artifact("features", head["version"]).at("features.json"))
    first, second = (feature_files.feature_path(listed["extractor"], image) for image in listed["train"][:2])
    sound = {file.path: whole.store.read_noted_tensors(file.path)[0] for file in whole.store.files("features")}
    sizes = {file.path: file.size for file in whole.store.files("features")}
    for path, tensors in {**sound, first: sound[second]}.items():
        whole.store.write_tensors(path, tensors, {"seconds": "000000.100000"})
        feature_files._CACHE.drop(whole.store.location(path))
    assert {file.path: file.size for file in whole.store.files("features")} == sizes
    for stage, partition in whole.slots():
        if stage.kind not in ("image_index", "features", "study"):
            materialize(stage, partition, whole.store, whole.benchmark.compute, LOG, force=True)
    for place in [*whole.root.rglob("artifact.json"), *(whole.root / "heads").rglob("*.json")]:
        path = str(place.relative_to(whole.root))
        record = records.read_record(whole.store, path)
        records.write_record(whole.store, path, {k: v for k, v in record.items() if k not in ("made_of", "contents")})
    poisoned = whole.numbers()
    lane = [f"parts/small/{kind} bolt" for kind in ("memory_bank", "neighbours", "score_maps", "metrics")]
    assert not any(poisoned[name] == whole.results[name] for name in lane)
    whole.run()  # heads follow their records
    assert (whole.run(), whole.numbers()) == (set(), poisoned)  # what a plain run cannot know makes nothing due
    built = whole.run(verify=True)
    assert {"features", "memory_bank", "neighbours", "score_maps", "metrics", *SHOWN} <= built
    assert whole.numbers() == whole.results
    marks = {path: whole.store.read_notes(path)["seconds"][0] for path in sizes}
    assert marks == {path: "-" if path == first else "+" for path in sizes}
    assert whole.run(verify=True) == set()
    assert not whole.due()
    # The features of another dataset may list the same files: its own verification finds the mark.
    index = whole.store.artifact("features", head["version"])
    record = index.record()
    assert record["metadata"].pop("remade") == [Path(first).stem]
    index.commit(record)
    whole.run()
    assert whole.run(verify=True) == {"features"}
