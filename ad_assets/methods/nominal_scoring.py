"""Scores of nominal images for a threshold, by a state that has nothing of them: left out of it, or held out.

Near-copies (`near_copies.py`) are left out together, where that is asked for: an image whose copies stay in the state
scores far below a new one, and a threshold from such scores calls most good images anomalous.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from ad_assets.methods.base import Method
from ad_assets.methods.data import Features, NominalScores, ScoreMaps
from ad_assets.methods.fewer_learnt import falls
from ad_assets.methods.near_copies import near_copy_groups
from ad_assets.methods.runtime import Runtime

Scored = Iterator[tuple[tuple[str, ...], ScoreMaps]]
FindCopies = Callable[[Features, Sequence[str], Runtime], list[frozenset[str]]]  # as `near_copy_groups`
ALL_ONE_GROUP = "all are of one group, so each was scored with others of its group in the state"
ALL_COPIES = "all are near-copies of one another, so each was scored with copies of itself in the state"


def nominal_scores(
    method: Method[Any],
    train: Features,
    held_out: Sequence[str],
    most: int,
    score: Callable[[Features], Scored],
    without: Callable[[Collection[str]], Callable[..., Scored]],
    runtime: Runtime,
    *,
    by_group: bool,
    declared: Sequence[frozenset[str]] = (),
    find_copies: FindCopies = near_copy_groups,
) -> NominalScores:
    """The scores of at most so many nominal images; none where none can be left out and none was held out.

    Args:
        method: the configured method.
        train: the features of all nominal images.
        held_out: those that did not train, of a method that cannot leave out an image.
        most: how many.
        score: scores images, each without what the state took from it where the method leaves out.
        without: from near-copies to what scores images with a state that has none of them, and with ``left_out`` none
            of each image itself.
        runtime: for progress, and device.
        by_group: leave out an image with its group; of those held out of a training take none of whose group an image
            is in it.
        declared: the groups, such as lots; empty: near-copies are one.
        find_copies: finds these.
    """
    ids = train.image_ids if method.leaves_out else held_out
    chosen = _lowest(ids, most)
    groups: list[frozenset[str]] = []
    left_out = ""
    if by_group and chosen:
        found_groups = declared or find_copies(train, chosen, runtime)
        groups = [group & {*train.image_ids} for group in found_groups]
        groups = [group for group in groups if len(group) > 1 and group & {*chosen}]
        left_out = f"image by image, {'each is a group' if declared else 'no near-copies found'}"
    apart: list[frozenset[str]] = []  # groups that are left out together
    if groups and not method.leaves_out:
        trained = set(train.image_ids) - set(ids)
        copies = {image for group in groups if group & trained for image in group}
        what = "an image of their group" if declared else "a near-copy"
        left_out = f"held out; {len(copies & set(chosen))} with {what} among the training images do not count"
        left_out = left_out if copies or not declared else "held out, of each group all or none"
        chosen = [image for image in chosen if image not in copies]
    elif any(len(group) == len(train) for group in groups):
        left_out = ALL_ONE_GROUP if declared else ALL_COPIES
    elif groups and type(method).without is Method.without:
        left_out = f"image by image, although there are groups: {method.name} cannot leave out several"
    else:
        apart = groups
    found: dict[str, tuple[float, float]] = {}
    grouped = {image for group in apart for image in group}
    alone = [image for image in chosen if image not in grouped]
    together: list[Collection[str]] = list(apart)
    if method.leaves_out and method.folds:
        count = min(method.folds, len(alone))
        together += [frozenset(alone[first::count]) for first in range(count)]
        alone = []
    # One state at a time: each may be as large as what was learnt.
    later = ((without(images), [image for image in chosen if image in images]) for images in together)
    for score_part, part in chain([(score, alone)], later):
        for scored_ids, scored in score_part(replace(train, image_ids=tuple(part))):
            values = zip(scored.image_scores.tolist(), scored.maps.amax(dim=(1, 2)).tolist(), strict=True)
            found |= zip(scored_ids, values, strict=True)
            runtime.report("nominal images scored left-out", len(found), len(chosen))
    numbers = _group_numbers(chosen, groups)
    if apart:
        left_out = f"by {'group' if declared else 'near-copies'}: {len(set(numbers))} groups of {len(chosen)} images"
        found, told = _as_by_all(method, found, apart, alone, train, without, runtime)
        left_out += told
    scores, maxima = ([found[image][part] for image in chosen] for part in (0, 1))
    return NominalScores(chosen, scores, maxima, numbers if groups else [], left_out)


def _as_by_all(
    method: Method[Any],
    found: dict[str, tuple[float, float]],
    groups: Sequence[frozenset[str]],
    alone: Sequence[str],
    train: Features,
    without: Callable[[Collection[str]], Callable[..., Scored]],
    runtime: Runtime,
) -> tuple[dict[str, tuple[float, float]], str]:
    """Scores of images that were left out with their group as a state of as many as all gives them, and that in words.

    As they are where scores hardly fall with the number of images.
    """
    if not method.scores_fall:
        return found, ""

    def score_without(gone: Collection[str], asked: Sequence[str], by_itself: bool) -> dict[str, float]:
        scored = without(gone)(replace(train, image_ids=tuple(asked)), left_out=by_itself)
        return {name: s for names, each in scored for name, s in zip(names, each.image_scores.tolist(), strict=True)}

    image_scores = {image: own for image, (own, _) in found.items()}
    lowered, least = dict(found), 1.0
    for done, (group, factor) in enumerate(falls(groups, alone, image_scores, len(train), score_without), 1):
        lowered |= {image: (own * factor, top * factor) for image, (own, top) in found.items() if image in group}
        least = min(least, factor)
        runtime.report("groups left out with another, to tell what they are worth", done, len(groups))
    return lowered, f", whose scores were lowered by up to {1 - least:.0%}, as by a state of all"


def _group_numbers(images: Sequence[str], groups: Sequence[Collection[str]]) -> list[int]:
    """The number of the group of each image, in the order in which groups begin; an image in none is one alone."""
    own = {image: f"group {number}" for number, group in enumerate(groups) for image in group}
    numbers: dict[str, int] = {}
    return [numbers.setdefault(own.get(image, image), len(numbers)) for image in images]


def _lowest(image_ids: Sequence[str], most: int) -> list[str]:
    """The lowest ids, at most so many: digests, random with respect to content. A new image replaces one at most."""
    if len(image_ids) <= 1:
        return []  # of one image, left out, nothing would remain
    lowest = set(sorted(image_ids)[:most])
    return [image_id for image_id in image_ids if image_id in lowest]
