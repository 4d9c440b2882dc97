"""What a threshold is worth when images are left out by lots, as the smaller states score and as a state of all would.

    python -m tests.benchmarks.bench_lots [images lot,lot,... channels draws]

Boards are drawn by the generator of the demo: 220 good and 100 defective ones. A draw fits PaDiM on some good ones in
lots at random, and decides on 100 other good ones and the defects. `above` is how far left-out scores lie above those
of new good images, medians; then false alarms and recall where 20 % of false alarms are asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from unittest.mock import patch

import numpy as np
import torch

from ad_assets.backbones.backbone import load_backbone
from ad_assets.config.load import load_config
from ad_assets.datasets.readers.demo import board
from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import METHODS, Features, Runtime
from ad_assets.metrics.thresholds import nominal_quantile

GOOD, DEFECTS, NEW = 220, 100, 100
RATE = 0.2
RUNTIME = Runtime(memory_gb=2)
CASES = (
    ("48", "12,12,12,12", "100", "4"),
    ("48", "6,6,6,6,6,6,6,6", "100", "4"),
    ("60", "25,26,3,5,1", "100", "4"),
    ("120", "24,24,24,24,24", "100", "3"),
    ("120", "24,24,24,24,24", "30", "4"),
)


def boards() -> tuple[list[torch.Tensor], tuple[int, int]]:
    """Their taps at 1/8 and 1/16, each (GOOD + DEFECTS, C, h, w), the good ones first; and the size of maps."""
    benchmark = load_config("demo")
    extractor = benchmark.extractors["lite0"]
    backbone = load_backbone(extractor, benchmark.compute)
    taps = []
    for first in range(0, GOOD + DEFECTS, 16):
        drawn = []
        for number in range(first, min(first + 16, GOOD + DEFECTS)):
            kind = "good" if number < GOOD else board.DEFECTS[number % len(board.DEFECTS)]
            image, _ = board.draw(np.random.default_rng([7, number]), kind)
            drawn.append(backbone.preprocess(image.round().clip(0, 255).astype(np.uint8)))
        taps.append([tap.half() for tap in backbone.extract(torch.stack(drawn))[1:]])
    return [torch.cat(tap) for tap in zip(*taps, strict=True)], extractor.map_size


def draw(taps: Sequence[torch.Tensor], size: tuple[int, int], lots: Sequence[int], channels: int, seed: int) -> list:
    """Of scores as they are and as lowered: above, false alarms, recall."""
    order = [f"{number:04d}" for number in np.random.default_rng(seed).permutation(GOOD)]
    images = sum(lots)

    def load(ids: Sequence[str], wanted: tuple[int, ...] | None) -> list[torch.Tensor]:
        return [taps[tap][[int(each) for each in ids]].float() for tap in wanted or range(len(taps))]

    train = Features(tuple(sorted(order[:images])), load)
    method = METHODS["padim"](channels=channels)
    scorer = Scorer(method, method.fit(train, RUNTIME), train, None, size, RUNTIME)
    good, bad = (
        torch.cat([each.image_scores for _, each in scorer(replace(train, image_ids=tuple(ids)), new=True)]).numpy()
        for ids in (order[images : images + NEW], [f"{number:04d}" for number in range(GOOD, GOOD + DEFECTS)])
    )
    groups = [frozenset(order[first:end]) for first, end in pairwise(accumulate(lots, initial=0)) if end - first > 1]
    found = []
    for lowered in (False, True):
        with patch.object(type(method), "scores_fall", lowered):
            nominal = scorer.nominal(train, images, True, groups)
        threshold = nominal_quantile(nominal.scores, RATE, nominal.groups)
        above = float(np.median(nominal.scores) / np.median(good)) - 1
        found += [above, float((good > threshold).mean()), float((bad > threshold).mean())]
    return found


def main(*given: str) -> None:
    """Print a line a case."""
    taps, size = boards()
    for images, lots, channels, draws in [given] if given else CASES:
        sizes = [int(each) for each in lots.split(",")]
        if sum(sizes) != int(images):
            raise SystemExit(f"lots of {lots} are {sum(sizes)} images, not {images}")
        rows = np.array([draw(taps, size, sizes, int(channels), seed) for seed in range(int(draws))]).mean(axis=0)
        told = [
            f"{name} {above:.0%} above, {alarms:.0%}, {recall:.0%}"
            for name, (above, alarms, recall) in zip(("as scored", "lowered"), np.split(rows, 2), strict=True)
        ]
        print(f"{images} images in lots of {lots}, {channels} channels: {'; '.join(told)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
