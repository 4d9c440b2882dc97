"""Which test images a reader should see: the worst false alarms, the worst misses, then typical hits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

Verdict = Literal["false alarm", "miss", "hit", "pass"]
VERDICTS: tuple[Verdict, ...] = ("false alarm", "miss", "hit", "pass")


@dataclass(frozen=True)
class GalleryItem:
    """One test image as one detector sees it.

    Args:
        image_name: path relative to the dataset; shown as text, whatever it holds.
        defect_type: ``good`` for nominal images.
        label: 0 nominal, 1 anomalous.
        score: image score.
        threshold: scores above it are called anomalous.
        photo: JPEG of image | image with mask outline, see `pictures.photo`; the same for all detectors.
        heat: JPEG of the heat map over the image.
    """

    image_name: str
    defect_type: str
    label: int
    score: float
    threshold: float
    photo: bytes
    heat: bytes

    @property
    def verdict(self) -> Verdict:
        """What the detector's decision was; ``pass`` is a nominal image rightly passed."""
        if self.score > self.threshold:
            return "hit" if self.label else "false alarm"
        return "miss" if self.label else "pass"


def choose_gallery(
    scores: ArrayLike,
    labels: Sequence[int] | ArrayLike,
    threshold: float,
    *,
    misses: int = 4,
    false_alarms: int = 4,
    hits: int = 4,
) -> list[int]:
    """Positions of the images to show, in the order to show them.

    First the nominal images with the highest scores above the threshold, then the anomalous images with
    the lowest scores at or below it, then hits from weak to strong, evenly spread over the ranks of all
    hits. Equal scores are taken in order of position.

    Args:
        scores: ``(N,)`` image scores.
        labels: ``(N,)`` 0 nominal, 1 anomalous.
        threshold: scores above it are called anomalous.
        misses: how many misses at most.
        false_alarms: how many false alarms at most.
        hits: how many hits at most.

    Raises:
        ValueError: lengths differ, another label than 0 and 1, or a score or threshold that is not a number.
    """
    values = np.asarray(scores, dtype=np.float64)
    truth = np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(f"scores and labels must both be (N,), not {values.shape} and {truth.shape}")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("labels must be 0 (nominal) or 1 (anomalous)")
    if np.isnan(values).any() or np.isnan(threshold):
        raise ValueError("scores and threshold must be numbers, but one is NaN")
    above = values > threshold
    rising = np.argsort(values, kind="stable")
    falling = np.argsort(-values, kind="stable")
    alarmed = [int(i) for i in falling if above[i] and truth[i] == 0]
    missed = [int(i) for i in rising if not above[i] and truth[i] == 1]
    found = [int(i) for i in rising if above[i] and truth[i] == 1]
    shown = min(hits, len(found))
    spread = [found[(2 * k + 1) * len(found) // (2 * shown)] for k in range(shown)]
    return [*alarmed[:false_alarms], *missed[:misses], *spread]
