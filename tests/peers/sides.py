"""The two sides: each fits and scores a folder of images by a command of its own, and hands over raw scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.weights import build_model
from ad_assets.settings.compute import usable_cores
from tests.peers import costs
from tests.peers.costs import Cost
from tests.peers.folders import CATEGORY
from tests.peers.judge import METRICS, Scores
from tests.peers.lanes import Detector
from tests.support.places import REPOSITORY

PEER = REPOSITORY / ".venv-peers" / "bin" / "python"
SCRIPT = Path(__file__).with_name("anomalib_side.py")
SAME = 1e-4  # features of the same weights differ by less of a tap's largest value
DATASET, LANE = "peers", "lane"
OWN_NAMES = ("image_auroc", "pixel_auroc", "aupro_0.30")  # the graph's, in the order of the judge's


@dataclass
class Ours:
    """This project's command line, with a store of its own.

    Args:
        folder: for the store and the benchmark file.
        images: root of the folder of images.
        extractor: of the lane.
    """

    folder: Path
    images: Path
    extractor: Extractor

    @property
    def config(self) -> Path:
        """The benchmark file."""
        return self.folder / "peers.yaml"

    def run(self, detector: Detector, seed: int, changed: dict[str, Any] | None = None) -> Cost:
        """Bring everything up to date: index, features, state, maps, metrics, leaderboard, report."""
        import yaml

        self.folder.mkdir(parents=True, exist_ok=True)
        lane = {**detector.ours, **(changed or {}), "extractor": "lite0", **({"seed": seed} if detector.seeded else {})}
        named = self.extractor.model_dump(mode="json", exclude_unset=True)
        tree = {
            "store": {"root": str(self.folder / "store")},
            "extractors": {"lite0": named},
            "datasets": {DATASET: {"reader": "folder", "root": str(self.images), "detectors": {LANE: lane}}},
        }
        self.config.write_text(yaml.safe_dump(tree), encoding="utf-8")
        command = [sys.executable, "-m", "ad_assets.cli", "materialize", "--config", str(self.config)]
        return costs.run(command, REPOSITORY, self.folder / "log.txt", _environ(DAGSTER_HOME=str(self.folder / "home")))

    def metrics(self) -> dict[str, float]:
        """The graph's own metrics, in percent, by the judge's names."""
        from ad_assets import results

        rows = results.metrics(DATASET, self.config).query("protocol == 'standard'")
        values = rows.set_index("metric")["value"]
        return {name: 100 * float(values[key]) for name, key in zip(METRICS, OWN_NAMES, strict=True)}

    def scores(self) -> Scores:
        """The raw scores of the test images."""
        from ad_assets import results
        from ad_assets.config.load import load_config
        from ad_assets.graph.graph import Graph
        from ad_assets.graph.lanes import stages_of
        from ad_assets.graph.stages.score_maps import shards

        index = results.image_index(DATASET, self.config)
        tests = index[index["split"] == "test"]
        names: dict[str, list[str]] = {}
        for image_id, path in zip(tests["image_id"], tests["path"], strict=True):
            names.setdefault(image_id, []).append(str(Path(*Path(path).parts[-2:])))
        benchmark = load_config(self.config)
        graph = Graph(stages_of(benchmark), benchmark.store)
        artifact = graph.artifact(((DATASET, LANE, "score_maps"), CATEGORY))
        assert artifact is not None
        paths, image, maps = [], [], []
        for ids, some, scores in shards(artifact):
            for image_id, one, score in zip(ids, some.numpy(), scores.tolist(), strict=True):
                for path in names[image_id]:
                    paths.append(path)
                    image.append(score)
                    maps.append(one)
        return Scores(paths, np.array(image, np.float32), np.stack(maps))


@dataclass
class Theirs:
    """anomalib, by the interpreter of its own environment.

    Args:
        folder: for its files.
        images: root of the folder of images.
        extractor: whose weights, layers and transform it is given.
        probe: ``(1, 3, H, W)`` float32, an input of the backbone.
        weights: a safetensors file.
    """

    folder: Path
    images: Path
    extractor: Extractor
    probe: Path
    weights: Path

    def run(self, detector: Detector, seed: int, changed: dict[str, Any] | None = None) -> Cost:
        """Fit and test anew: it keeps no features."""
        self.folder.mkdir(parents=True, exist_ok=True)
        model, arguments = detector.theirs
        resize, crop = self.extractor.geometry
        mean, std = self.extractor.normalisation
        job = {
            "model": model,
            "arguments": {**arguments, **(changed or {})},
            "backbone": self.extractor.architecture,
            "layers": list(self.extractor.taps),
            "weights": str(self.weights),
            "resize": resize if isinstance(resize, int) else list(resize),
            "crop": crop,
            "mean": list(mean),
            "std": list(std),
            "images": str(self.images / CATEGORY),
            "folder": str(self.folder / "results"),
            "seed": seed,
            "workers": usable_cores(),
            "probe": str(self.probe),
            "scores": str(self.folder / "scores.npz"),
            "releases": str(self.folder / "releases.json"),
        }
        path = self.folder / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        return costs.run([str(PEER), str(SCRIPT), str(path)], self.folder, self.folder / "log.txt", _environ())

    def releases(self) -> dict[str, str]:
        """Those of anomalib and of torch that it ran with."""
        found: dict[str, str] = json.loads((self.folder / "releases.json").read_text(encoding="utf-8"))
        return found

    def arrays(self) -> dict[str, Any]:
        """All arrays that it wrote."""
        with np.load(self.folder / "scores.npz") as file:
            return dict(file)

    def scores(self) -> Scores:
        """The raw scores of the test images."""
        arrays = self.arrays()
        return Scores(arrays["paths"].tolist(), arrays["image"], arrays["maps"])


def share_backbone(extractor: Extractor, folder: Path) -> tuple[Path, Path]:
    """Write the weights of an extractor, and an input of its backbone; returns (weights, probe)."""
    from safetensors.torch import save_file

    weights, probe = folder / "weights.safetensors", folder / "probe.npy"
    save_file({name: value.contiguous() for name, value in build_model(extractor).state_dict().items()}, weights)
    rng = np.random.default_rng(0)
    np.save(probe, rng.standard_normal((1, 3, *extractor.input_size)).astype(np.float32))
    return weights, probe


def features_apart(extractor: Extractor, probe: Path, theirs: dict[str, Any]) -> float:
    """How far both sides' features of the probe are apart, as a part of a tap's largest value.

    Raises:
        ValueError: by more than rounding: they have other weights or layers, and no comparison means anything.
    """
    import torch

    from ad_assets.backbones.backbone import Backbone

    taps = Backbone.load(extractor).extract(torch.from_numpy(np.load(probe)))
    apart = max(
        float(np.abs(tap.numpy() - theirs[f"tap{number}"]).max() / tap.abs().max()) for number, tap in enumerate(taps)
    )
    if apart > SAME:
        raise ValueError(f"features of the same input differ by {apart:.1e} of the largest: other weights or layers")
    return apart


def commit() -> str:
    """Which commit of this project is compared, shortened; ends in ``-dirty`` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()


def _environ(**more: str) -> dict[str, str]:
    """The environment of both: neither is told how many threads to take, so that each takes all cores."""
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "runtime")]), **more}
