"""One metric code for both sides: how well raw scores of the same test images tell what their truth says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ad_assets.metrics import ranking
from ad_assets.metrics.pixels import PixelStatistics
from tests.peers.folders import Truth

METRICS = ("image AUROC", "pixel AUROC", "AUPRO")
LARGEST_CHECKED = 4_000_000  # pixels that scikit-learn ranks in a second or two


@dataclass(frozen=True)
class Scores:
    """Raw scores of test images.

    Args:
        paths: (N,) last two parts of the images' paths.
        image: (N,) float, higher is more anomalous.
        maps: (N, H, W) float32.
    """

    paths: list[str]
    image: NDArray[np.floating]
    maps: NDArray[np.float32]


def judge(scores: Scores, truth: Truth) -> dict[str, float]:
    """The metrics in percent; AUPRO up to a false positive rate of 0.3.

    Raises:
        ValueError: other images than those of the truth, or maps of another size than its masks.
    """
    if sorted(scores.paths) != sorted(truth.labels):
        odd = sorted(set(scores.paths) ^ set(truth.labels))
        raise ValueError(f"{len(scores.paths)} images were scored, {len(truth.labels)} are to be; such as {odd[:3]}")
    size = next(iter(truth.masks.values())).shape
    if scores.maps.shape[1:] != size:
        raise ValueError(f"maps of {scores.maps.shape[1:]}, masks of {size}: compare in one frame")
    labels = [truth.labels[path] for path in scores.paths]
    masks = np.stack([truth.masks.get(path, np.zeros(size, bool)) for path in scores.paths])
    pixels = PixelStatistics(exact_pixels=masks.size)
    pixels.update(scores.maps, masks)
    values = (ranking.auroc(scores.image, labels), pixels.pixel_auroc(), pixels.aupro(0.3))
    return dict(zip(METRICS, (100 * value for value in values), strict=True))


def difference_from_scikit_learn(scores: Scores, truth: Truth) -> float:
    """By how many points AUROC of images, and of pixels where they are few, is another by scikit-learn."""
    from sklearn.metrics import roc_auc_score

    own = judge(scores, truth)
    labels = [truth.labels[path] for path in scores.paths]
    found = [abs(100 * float(roc_auc_score(labels, scores.image)) - own["image AUROC"])]
    if scores.maps.size <= LARGEST_CHECKED:
        empty = np.zeros(scores.maps.shape[1:], bool)
        masks = np.stack([truth.masks.get(path, empty) for path in scores.paths])
        found.append(abs(100 * float(roc_auc_score(masks.ravel(), scores.maps.ravel())) - own["pixel AUROC"]))
    return max(found)
