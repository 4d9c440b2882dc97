"""A state that came of an earlier one by new images alone, and matches with the earlier one that serve it too.

What an image found in the earlier state stays true of what was there, so only what the new images brought is searched.
Whether that is so is told from the states themselves, never from how they were made: where anything that was there is
gone or another, there is no growth, and all is searched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ad_assets.methods.data import Batch, Features, LoadMatches, Matches, by_image, together
from ad_assets.methods.state import State

if TYPE_CHECKING:
    from torch import Tensor

ROWS_COMPARED = 1 << 14  # rows that are compared at once


class Growth(ABC):
    """From an earlier state to one with more images.

    Args:
        added: ids of the images that are new to the state.
    """

    def __init__(self, added: Collection[str]) -> None:
        self.added = frozenset(added)

    @abstractmethod
    def renew(self, batch: Batch) -> Matches:
        """The matches of images with the state, as `Method.match` finds them.

        Args:
            batch: images, none of them `added`; its matches are those with the earlier state, `left_out` as these are.
        """


Matched = Iterator[tuple[tuple[str, ...], Matches]]  # as `Method.match` yields them


def match_grown(
    growth: Growth,
    images: Features,
    known: Collection[str],
    load: LoadMatches,
    match: Callable[[Features], Matched],
    *,
    left_out: bool = False,
) -> Matched:
    """Yield ``(image ids, matches)`` batch by batch, in order.

    Args:
        growth: of the state.
        images: those to match.
        known: whose matches with the earlier state are kept.
        load: reads these.
        match: matches images with the whole state.
        left_out: match every image with the state without what that took from it.
    """
    for ids in images.id_batches():
        old = [image_id for image_id in ids if image_id in known and image_id not in growth.added]
        parts: dict[str, Matches] = {}
        if old:
            taps = images.load(old, images.layers)
            parts |= by_image(old, growth.renew(Batch(taps, (0, 0), old, left_out, load(old), images.region)))
        for own, matches in match(replace(images, image_ids=tuple(i for i in ids if i not in parts))):
            parts |= by_image(own, matches)
        yield ids, together(ids, parts)


@dataclass(frozen=True)
class Before:
    """What images had found in an earlier state.

    Args:
        state: that state, as it was stored.
        tested: ids of the test images whose matches are kept.
        load: reads these.
        left_out: matches of nominal images without what the state took from them, and from which images that was: of
            a group that was left out together; none where the image was left out alone.
    """

    state: State
    tested: Collection[str]
    load: LoadMatches
    left_out: Mapping[str, tuple[frozenset[str], Matches]]


def added_images(before: Sequence[str], now: Sequence[str]) -> list[str] | None:
    """The images that came to some; None where one is gone."""
    return sorted(set(now) - set(before)) if set(before) <= set(now) else None


def same_rows(one: Tensor, other: Tensor, numbers: Tensor) -> bool:
    """Whether rows (M, D) are those of another tensor by number (M,); in blocks, since either may be mapped."""
    blocks = zip(one.split(ROWS_COMPARED), numbers.to(other.device).split(ROWS_COMPARED), strict=True)
    return all(bool((rows.to(other.device) == other[own]).all()) for rows, own in blocks)
