"""Scores of nominal images by a state that took nothing from them: all that a nominal-only threshold may look at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NominalScores:
    """Nominal training images, each scored left-out or held out of the training.

    Args:
        image_ids: (n,) which.
        scores: (n,) their image scores.
        map_maxima: (n,) the highest score of each one's map, which an image score need not be: their quantile is a
            threshold that bounds the part of nominal images with any pixel above it. Of an ensemble upper bounds, from
            the maxima of its members, which may lie on different pixels.
    """

    image_ids: list[str]
    scores: list[float]
    map_maxima: list[float]
