"""Whether a bundle, run by its own runtime, says what the product says of the same images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ad_assets.bundle.writer import Scored
from ad_assets_runtime.images import RgbImage
from ad_assets_runtime.selftest import TOLERANCE, apart

Score = Callable[[RgbImage], tuple[NDArray[np.float32], float]]


@dataclass(frozen=True)
class Parity:
    """What the comparison found.

    Args:
        images: how many were compared.
        largest_map: largest difference of a pixel of a map, relative to the largest absolute score of that map.
        largest_score: largest difference of an image score, relative to the larger of that and the score.
        flips: images that are on the other side of the threshold.
        milliseconds: median of an image, from its pixels to its score, on the machine that compared; None: no image.
        tolerance: of both differences.
        runtime: name and version of what ran the bundle.
    """

    images: int
    largest_map: float
    largest_score: float
    flips: int
    milliseconds: float | None
    tolerance: float
    runtime: dict[str, str]

    @property
    def fault(self) -> str:
        """Why the bundle may not go out, in words; empty where it may."""
        if not self.images:
            return "there was no image to compare on"
        found = []
        for what, value in (("map", self.largest_map), ("score", self.largest_score)):
            if not value <= self.tolerance:  # NaN is none
                found.append(f"a {what} differs by {value:.3g} of its largest score, more than {self.tolerance:g}")
        if self.flips:
            found.append(f"{self.flips} of {self.images} decisions are others")
        return "; ".join(found)

    def __str__(self) -> str:
        said = f"{self.images} images, maps within {self.largest_map:.2g}, scores within {self.largest_score:.2g}"
        return f"{said} of the largest score, {self.flips} decisions changed"

    def values(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def compare(images: Iterable[Scored], score: Score, threshold: float | None, runtime: dict[str, str]) -> Parity:
    """Score images with a bundle and compare.

    Args:
        images: with what the product says of them.
        score: the bundle's, from the pixels of a decoded image.
        threshold: above which an image is anomalous; None: nothing is decided.
        runtime: name and version of what runs it.
    """
    of_maps, of_scores, seconds, flips = [0.0], [0.0], [], 0
    for each in images:
        started = time.perf_counter()
        score_map, value = score(each.rgb)
        seconds.append(time.perf_counter() - started)
        of_map, of_score = apart(score_map, value, each.score_map, each.score)
        of_maps.append(of_map)
        of_scores.append(of_score)
        if threshold is not None:
            flips += int((value > threshold) != (each.score > threshold))
    median = 1000 * float(np.median(seconds)) if seconds else None
    # Not `max`, which forgets NaN.
    largest_map, largest_score = (float(np.max(values)) for values in (of_maps, of_scores))
    return Parity(len(seconds), largest_map, largest_score, flips, median, TOLERANCE, runtime)
