"""Are left-out scores those of new images? False alarms asked for and seen on good tiles that no state has learnt.

    python -m tests.benchmarks.bench_left_out /path/to/mtd [images] [draws] [detector ...]

Of the Magnetic Tile Defects data 320 good images are drawn, and 100 of the defects. A draw fits a detector of
`mtd.yaml` on some of the good ones, and scores these left out, 100 other good ones, and the defects. `one more` is how
much the scores of the same images fall when the state that has nothing of them learns one more: what leaving out adds.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ad_assets.backbones.backbone import load_backbone
from ad_assets.config.load import load_config
from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import Features, Method, Runtime
from ad_assets.metrics.alarm_rates import alarm_rates
from ad_assets.metrics.ranking import auroc
from ad_assets.metrics.thresholds import nominal_quantile

GOOD, DEFECTS, NEW = 320, 100, 100
SHOWN = (0.05, 0.1, 0.2)
RUNTIME = Runtime(memory_gb=2)


def tiles(root: Path) -> tuple[list[torch.Tensor], tuple[int, int]]:
    """The taps of the images, each (GOOD + DEFECTS, C, h, w) float16, the good ones first; and the size of maps."""
    benchmark = load_config("mtd")
    extractor = benchmark.extractors["lite0"]
    backbone = load_backbone(extractor, benchmark.compute)
    files = sorted(root.glob("MT_*/Imgs/*.jpg"))
    good, defects = ([each for each in files if ("MT_Free" in str(each)) == free] for free in (True, False))
    chosen = random.Random(0).sample(good, GOOD) + random.Random(1).sample(defects, DEFECTS)  # noqa: S311
    taps = []
    for first in range(0, len(chosen), 16):
        images = [np.array(Image.open(each).convert("RGB")) for each in chosen[first : first + 16]]
        taps.append([tap.half() for tap in backbone.extract(torch.stack([backbone.preprocess(rgb) for rgb in images]))])
    return [torch.cat(tap) for tap in zip(*taps, strict=True)], extractor.map_size


def features(taps: Sequence[torch.Tensor], method: Method[Any], rows: Sequence[int]) -> Features:
    """The features of some images, called by their row, as a detector reads them."""
    layers = tuple(layer - 1 for layer in method.layers) if method.layers else None

    def load(ids: Sequence[str], wanted: tuple[int, ...] | None) -> list[torch.Tensor]:
        return [taps[tap][[int(each) for each in ids]].float() for tap in wanted or range(len(taps))]

    return Features(tuple(map(str, sorted(rows))), load, layers=layers)


def scored(scorer: Scorer, images: Features, rows: Sequence[int], *, left_out: bool = False) -> np.ndarray:
    """The image scores of some images."""
    part = replace(images, image_ids=tuple(map(str, rows)))
    return torch.cat([scores.image_scores for _, scores in scorer(part, left_out=left_out, new=True)]).numpy()


def draw(
    taps: Sequence[torch.Tensor], size: tuple[int, int], method: Method[Any], images: int, seed: int
) -> Iterator[float]:
    """AUROC, one more; then of each rate the false alarms that are expected and seen, and the recall."""
    order = np.random.default_rng(seed).permutation(GOOD).tolist()
    train, new = features(taps, method, order[:images]), order[images + 1 : images + 1 + NEW]
    scorer, wider = (
        Scorer(method, method.fit(each, RUNTIME), each, None, size, RUNTIME)
        for each in (train, features(taps, method, order[: images + 1]))
    )
    nominal = np.array(scorer.nominal(train, images).scores)
    good, bad = scored(scorer, train, new), scored(scorer, train, range(GOOD, GOOD + DEFECTS))
    known = [int(each) for each in train.image_ids]
    yield auroc(np.concatenate([good, bad]), [0] * len(good) + [1] * len(bad))
    more = [scored(each, train, known, left_out=True) for each in (scorer, wider)]
    yield float(np.log(more[0] / more[1]).mean())
    for rate in SHOWN:
        threshold = nominal_quantile(nominal, rate, [])
        [expected] = [each.expected for each in alarm_rates(nominal, [], rate) if each.rate == rate]
        yield from (expected, float((good > threshold).mean()), float((bad > threshold).mean()))


def main(root: str, images: str = "48", draws: str = "10", *detectors: str) -> None:
    """Print a line a detector: means over draws, and the standard error of the false alarms that were seen."""
    taps, size = tiles(Path(root))
    lanes = load_config("mtd").datasets["mtd"].detectors
    for name in detectors or ("padim",):
        method = lanes[name].method_for("")
        rows = np.array([list(draw(taps, size, method, int(images), seed)) for seed in range(int(draws))])
        mean, error = rows.mean(axis=0), rows.std(axis=0, ddof=1) / len(rows) ** 0.5
        told = [
            f"asked {rate:.0%}: expected {mean[k]:.1%}, seen {mean[k + 1]:.1%} ± {error[k + 1]:.1%}, "
            f"recall {mean[k + 2]:.0%}"
            for rate, k in zip(SHOWN, (2, 5, 8), strict=True)
        ]
        print(f"{name}, {images} images: AUROC {mean[0]:.3f}, one more {mean[1]:.1%}; {'; '.join(told)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
