"""What must hold of a line whatever happens to it: read from the folder, from what people said, and from the store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ad_assets.graph.garbage import unreferenced
from ad_assets.graph.graph import Graph
from ad_assets.graph.stages.feature_files import feature_path, stored_features
from ad_assets.graph.stages.features import extractor_of
from ad_assets.graph.stages.fitted_state import TRAINING_SET, method_of, read_state, runtime_on
from ad_assets.graph.stages.image_index import current_index, read_index
from ad_assets.graph.stages.metrics import read_rows, read_scored_images
from ad_assets.metrics.catalogue import compared, find
from ad_assets.production.champion_history import PROMOTED, History, read_history
from ad_assets.production.feedback_ledger import DECIDES, Decision, FeedbackError, Verdict, read_ledger
from ad_assets.production.review_decisions import read_admissions, read_decisions
from ad_assets_runtime.identity import content_of
from tests.lives.disk import Killed
from tests.lives.factory import CATEGORY, Factory, Process

LANES = {"bank": "memory_bank", "sheets": "template_set"}
PLACE = ("parts", CATEGORY)
FITS: dict[Any, Mapping[str, torch.Tensor]] = {}  # method, address of features, images in order -> from scratch


@dataclass(frozen=True)
class Opinion:
    """What people said of an image: what they decided of it last, and the feedback on it that stands.

    A process that died may have withdrawn feedback that a decision opposes, and not have written the decision.
    """

    decision: Decision | None = None
    verdict: Verdict | None = None

    @property
    def in_force(self) -> Decision | None:
        """What follows: feedback goes before."""
        return DECIDES[self.verdict] if self.verdict else self.decision

    def decided(self, decision: Decision) -> Opinion:
        """After a decision, which ends feedback that says the opposite."""
        return Opinion(decision, self.verdict if self.in_force == decision else None)


class Model:
    """What is known of a line without asking it.

    Attributes:
        opinions: content -> what people decided of it and what feedback on it stands; two, while the second of them is
            being written down, for the process may die.
        histories: detector -> its changes of champion, as last seen.
        collected: whether files were collected, after which what had gone may pass the network again.
    """

    def __init__(self, factory: Factory) -> None:
        self.factory = factory
        self.opinions: dict[str, list[Opinion]] = {}
        self.histories: dict[str, History] = {}
        self.collected = False
        self.see_champions()

    def on_disk(self, folder: str) -> dict[str, str]:
        """Path below the category -> content, of the images of a folder."""
        root = self.factory.images
        files = sorted((root / folder).rglob("*.png"))
        return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    def _tests(self) -> dict[str, str]:
        """The test images, without what is reported: a defect that has no mask, an image that has both labels."""
        masks = {path.rpartition("/")[2].removesuffix("_mask.png") for path in self.on_disk("ground_truth")}
        both = set(self.on_disk("test/good").values()) & set(self.on_disk("test/spot").values())
        return {
            path: content
            for path, content in self.on_disk("test").items()
            if content not in both and ("/spot/" not in path or Path(path).stem in masks)
        }

    def see_champions(self) -> None:
        """Champions only change by what is added to their history, and the graph promotes what passes its gates."""
        production = self.factory.daemon.benchmark.datasets["parts"].production
        assert production
        for lane in LANES:
            known, now = self.histories.get(lane), read_history(self.factory.daemon.store, "parts", lane, CATEGORY)
            if known:
                assert now.entries[: len(known.entries)] == known.entries, f"{lane}: a change of champion is lost"
            for before, entry in zip((None, *now.entries), now.entries, strict=False):
                if entry.action != PROMOTED:
                    continue
                new, numbers = entry.candidate, entry.candidate.numbers
                # Without an anomalous test image nobody has the metric, and nothing tells states apart by it.
                measured = production.floors if new.anomalous_images else production.floors.keys() & numbers.keys()
                for metric in measured:
                    floor = production.floors[metric]
                    assert numbers.get(metric, 0.0) >= floor, f"{lane}: champion below its floor of {metric}"
                old = before.candidate if before else None
                if old and old.truth == new.truth and old.state != new.state:
                    behind = [
                        metric
                        for metric in compared()
                        if metric in numbers.keys() & old.numbers.keys()
                        and find(metric).is_worse(numbers[metric], old.numbers[metric], production.margin)
                    ]
                    assert not behind, f"{lane}: champion behind the last in {behind}"
            self.histories[lane] = now

    @contextmanager
    def said(self, image: str, change: Callable[[Opinion], Opinion]) -> Iterator[None]:
        """A block in which a person says something of an image, and others may, too."""
        before = self.opinions.get(image, [Opinion()])
        self.opinions[image] = [*before, *map(change, before)]
        try:
            yield
        except Killed:
            self._settle(image)
            raise
        except FeedbackError:
            self.opinions[image] = before
            self._settle(image)  # what is refused changes nothing
        else:
            self.opinions[image] = list(dict.fromkeys(map(change, self.opinions[image])))

    def _settle(self, image: str) -> None:
        """Find out which of them it is that was written down, after the process that wrote it is gone."""
        standing = read_ledger(self.factory.daemon.store, *PLACE).standing().get(image)
        verdict = standing.verdict if standing else None
        in_force = read_decisions(self.factory.daemon.store, *PLACE).get(image)
        found = [own for own in self.opinions[image] if (own.verdict, own.in_force) == (verdict, in_force)]
        assert found, f"of {image[:8]} is known {verdict}, {in_force}, not one of {self.opinions[image]}"
        self.opinions[image] = found[-1:]

    def see_decisions(self) -> None:
        """No decision is lost, and no feedback: what a person said last is in force."""
        in_force = read_decisions(self.factory.daemon.store, *PLACE)
        for image, opinions in self.opinions.items():
            said = [opinion.in_force for opinion in opinions]
            assert in_force.get(image) in said, f"a decision on {image[:8]} is lost: {in_force.get(image)}, not {said}"

    def see_rest(self) -> None:
        """All of it, once nothing is asked for any more."""
        self.see_champions()
        self.see_decisions()
        fresh = Process(self.factory.folder)
        fresh.graph.refresh()
        amiss = {slot: why for slot in fresh.graph.slots() if (why := fresh.graph.absence_reason(slot))}
        assert not amiss, f"at rest, but not current: {amiss}"
        self._see_index(fresh)
        self._see_states(fresh)
        self._see_labels(fresh)
        self._see_leaderboard(fresh)
        if not (self.factory.faults or self.collected):
            most = max(self.factory.passes.values())
            assert most == 1, f"an image passed the network {most} times"
        self.see_collection(fresh)

    def _see_index(self, process: Process) -> None:
        """The index is what lies in the folder: admitted for training, and all for testing, with its labels."""
        index = current_index(process.store, *PLACE)
        assert index
        rows = read_index(index)
        admissions = read_admissions(process.store, *PLACE)
        rejected = {image for image, said in read_decisions(process.store, *PLACE).items() if said == "reject"}
        # What would test what it trained is reported, and not learnt.
        train = set(self.on_disk("train/good").values()) - set(self.on_disk("test").values())
        learnt = {content_of(row["image_id"]) for row in rows if row["split"] == "train"}
        admitted, held = set(admissions.admitted), set(admissions.held)
        assert not admitted & (held | rejected), "an image is admitted and is not"
        assert admitted | held | (rejected & train) == train, "an image is neither admitted, held nor rejected"
        assert learnt == admitted, f"learnt and not admitted, or admitted and not learnt: {learnt ^ admitted}"
        tests = {row["path"].partition("/")[2]: row for row in rows if row["split"] == "test"}
        found = {path: content_of(row["image_id"]) for path, row in tests.items()}.items()
        expected = self._tests().items()
        assert found == expected, f"of the test images: {found ^ expected}"
        wrong = [path for path, row in tests.items() if row["label"] != int("/spot/" in path)]
        assert not wrong, f"labels of {wrong}"

    def _see_states(self, process: Process) -> None:
        """A state equals a fit from scratch on what is admitted; of a coreset, every row is of an admitted image."""
        for stage, state in self._states(process):
            method, artifact = method_of(stage, CATEGORY), process.graph.artifact((stage.key, CATEGORY))
            assert artifact
            known = process.store.read_json(artifact.at(TRAINING_SET))
            learnt = {content_of(image) for image in known["images"]}
            assert learnt == set(read_admissions(process.store, *PLACE).admitted), f"{stage.name} learnt other images"
            features = extractor_of(stage.deps[0])
            assert all(process.store.exists(feature_path(known["features"], image)) for image in known["images"])
            if stage.kind == "template_set":
                expected = self._fit(process, method, known, features)
                assert state.keys() == expected.keys()
                for name, tensor in state.items():
                    assert torch.allclose(tensor, expected[name], rtol=1e-5, atol=1e-5), f"{stage.name}: {name}"
            else:
                every = self._fit(process, method.model_copy(update={"coreset_ratio": 1.0}), known, features)
                assert state.keys() == every.keys()
                apart = (state["rows"][:, None] - every["rows"]).abs().amax(dim=2)
                strange = apart.amin(dim=1) > 1e-4
                assert not strange.any(), f"{stage.name}: {strange.sum()} rows are of no image that is admitted"

    def _fit(
        self, process: Process, method: Any, known: Mapping[str, Any], features: Any
    ) -> Mapping[str, torch.Tensor]:
        """A fit from scratch; of the same images, whose features are the same in all lives, it is made once."""
        key = method.model_dump_json(), known["features"], tuple(known["images"])
        if key not in FITS:
            compute = process.benchmark.compute
            train = stored_features(process.store, compute, known["features"], known["images"], method.layers, features)
            FITS[key] = method.fit(train, runtime_on(compute, lambda *_: None)).tensors()
        return FITS[key]

    def _states(self, process: Process) -> Iterator[tuple[object, Mapping[str, torch.Tensor]]]:
        for stage in process.stages:
            if stage.kind in LANES.values():
                artifact = process.graph.artifact((stage.key, CATEGORY))
                assert artifact
                yield stage, read_state(artifact, method_of(stage, CATEGORY)).tensors()

    def _see_labels(self, process: Process) -> None:
        """Metrics are of the labels that the folder gives."""
        on_disk = {content: int("/spot/" in path) for path, content in self._tests().items()}
        for lane in LANES:
            metrics = process.graph.artifact((("parts", lane, "metrics"), CATEGORY))
            assert metrics
            judged = {content_of(row["image_id"]): row["label"] for row in read_scored_images(metrics).images}
            assert judged == on_disk, f"{lane}: metrics of other labels than those on disk"

    def _see_leaderboard(self, process: Process) -> None:
        """Each of its values is that of the metrics that its lane has under the present settings."""
        artifact = process.graph.artifact((("parts", "leaderboard"), None))
        assert artifact
        board = process.store.read_table(artifact.at("leaderboard.parquet")).to_pylist()
        shown = {
            (row["detector"], row["protocol"], row["metric"]): row["value"]
            for row in board
            if row["category"] == CATEGORY and row["protocol"] != "timing"
        }
        for lane in LANES:
            metrics = process.graph.artifact((("parts", lane, "metrics"), CATEGORY))
            assert metrics
            for row in read_rows(metrics):
                place = (lane, row["protocol"], row["metric"])
                assert place not in shown or shown[place] == row["value"], f"the leaderboard shows another {place}"

    def see_collection(self, process: Process) -> None:
        """No artifact of a champion, and none that is current, would be collected."""
        gone = {file.path for file in unreferenced(Graph(process.stages, process.store), older_than=0)}
        needed = set()
        for lane, kind in LANES.items():
            for entry in read_history(process.store, "parts", lane, CATEGORY).entries:
                champion = entry.candidate
                addresses = {kind: champion.state, "score_maps": champion.score_maps, "metrics": champion.metrics}
                needed |= {f"artifacts/{k}/{address}/artifact.json" for k, address in addresses.items()}
        missing = {path for path in needed if not process.store.exists(path)}
        assert not missing, f"of a champion, and gone: {missing}"
        assert not gone & needed, f"of a champion, and would be collected: {gone & needed}"
