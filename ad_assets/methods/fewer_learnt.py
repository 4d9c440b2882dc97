"""Scores of nominal images that were left out with their group, as a state that had learnt as many as all would score.

A state without a large group has learnt fewer images, and some methods score new images the higher the fewer they have
learnt: with fewer images than channels PaDiM's distances fall by a third where 34 images become 60. A threshold from
scores of the smaller state then lies above all that the whole one gives, and never fires.

How much a group's images are worth, images of other groups say, to which they are as new as to the one to come: they
are scored without their own group, and again without that and the group in question. Scores that fall with 1/n, the
law where images are many, would fall by another share between the larger numbers; that share is taken. With few images
scores fall faster than this, so that the correction is too small there and never too large.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

FEW = 5  # images of other groups, of which the median is taken
MANY = 16  # of images that are a group alone: more say nothing new
LEAST = 3  # images that a state needs, of which one may be left out

# From images that a state is to lack, images to score and whether each is left out by itself, to their scores.
ScoreWithout = Callable[[Collection[str], Sequence[str], bool], Mapping[str, float]]


def falls(
    groups: Sequence[frozenset[str]],
    alone: Sequence[str],
    scores: Mapping[str, float],
    images: int,
    score_without: ScoreWithout,
) -> Iterator[tuple[frozenset[str], float]]:
    """By what factor the scores of each group fall when the state has learnt as many images as all.

    Args:
        groups: of images that were left out together.
        alone: images that were left out one by one.
        scores: image -> its score, left out as said; of a group some of the images.
        images: how many the whole state has learnt.
        score_without: scores images with a state that lacks some.

    Yields:
        Each group with a factor of at most 1; 1 where too few images are left to tell.
    """
    for group in groups:
        yield group, _fall(group, groups, alone, scores, images, score_without)


def _fall(
    group: frozenset[str],
    groups: Sequence[frozenset[str]],
    alone: Sequence[str],
    scores: Mapping[str, float],
    images: int,
    score_without: ScoreWithout,
) -> float:
    found: list[float] = []
    left = images - len(group)
    if alone and left >= LEAST:
        found += _ratios(scores, score_without(group, alone[:MANY], True), _share(images, len(group), 1))
    for other in sorted(groups, key=lambda each: (len(each), min(each))):
        if len(found) >= FEW or left - len(other) < LEAST:
            break
        if other != group:
            known = [image for image in scores if image in other]
            higher = score_without(group | other, known, False)
            found += _ratios(scores, higher, _share(images, len(group), len(other)))
    return min(1.0, float(np.median(found))) if found else 1.0


def _share(images: int, group: int, other: int) -> float:
    """The fall from all but a group to all, as a share of that from all but two groups to all but the other."""
    return (1 / (images - group) - 1 / images) / (1 / (images - group - other) - 1 / (images - other))


def _ratios(scores: Mapping[str, float], higher: Mapping[str, float], share: float) -> list[float]:
    """Factors by which scores fall; an image without any score tells nothing."""
    return [(scores[image] / score) ** share for image, score in higher.items() if score > 0]
