"""What a method reads and returns: features of images, a batch to score, score maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Matches = Mapping[str, "Tensor"]  # what images matched in a state, by name, each (B, ...)
LoadTaps = Callable[[Sequence[str], tuple[int, ...] | None], "list[Tensor]"]  # reads the taps of images, see `Features`
LoadMatches = Callable[[Sequence[str]], Matches]  # reads stored matches of images, by their ids


@dataclass(frozen=True)
class Features:
    """Backbone features of a list of images, loaded batch by batch.

    Args:
        image_ids: one sha256 an image, in a canonical order that does not depend on file names.
        load: maps image ids and positions of taps (from 0; None: all) to taps of one extractor, each ``(B, C, h, w)``
            float32, shallow to deep.
        batch_size: images a batch; never changes a result.
        layers: positions of the taps that are loaded; None: all.
        region: (H, W) bool, the region of interest in pixels of the extractor's input; None: all of it.
        groups: declared groups of images, such as lots, of which a method that holds images out of its training holds
            out all or none.
        turned: as `load`, for each of `Method.turned_by` the taps of the same images turned; other features, not turned
            ones.
    """

    image_ids: tuple[str, ...]
    load: LoadTaps
    batch_size: int = 16
    layers: tuple[int, ...] | None = None
    region: Tensor | None = None
    groups: Sequence[frozenset[str]] = ()
    turned: Sequence[LoadTaps] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    def id_batches(self) -> Iterator[tuple[str, ...]]:
        """Yield the image ids batch by batch, in order."""
        for first in range(0, len(self.image_ids), self.batch_size):
            yield self.image_ids[first : first + self.batch_size]

    def batches(self) -> Iterator[tuple[tuple[str, ...], list[Tensor]]]:
        """Yield ``(image ids, taps)`` in order."""
        for ids in self.id_batches():
            yield ids, self.load(ids, self.layers)

    def sample(self) -> list[Tensor]:
        """The taps of the first image, each ``(1, C, h, w)``: all images have these shapes.

        Raises:
            ValueError: there is no image.
        """
        if not self.image_ids:
            raise ValueError("no nominal image to fit: the train split is empty")
        return self.load(self.image_ids[:1], self.layers)

    def layer(self, number: int) -> Features:
        """The same images with one tap: the `number`-th of those that are loaded, from 0."""
        return dataclasses.replace(self, layers=(self.layers[number] if self.layers else number,))


@dataclass(frozen=True)
class Batch:
    """Images to score.

    Args:
        taps: each ``(B, C, h, w)`` float32, as `Features` loads them.
        map_size: height and width of the score maps, pixels of the cropped input.
        image_ids: ids of the B images, by which those that were trained on are recognised; None: none was.
        left_out: score every image without what the state took from it (nominal-only thresholds need this), as the
            option `exclude_same_image` does.
        matches: what `Method.match` yielded for these images; empty: `score` searches now.
        region: (H, W) bool of size `map_size`, outside which nothing scores; None: all of it is inspected.
    """

    taps: list[Tensor]
    map_size: tuple[int, int]
    image_ids: Sequence[str] | None = None
    left_out: bool = False
    matches: Matches = field(default_factory=dict)
    region: Tensor | None = None


@dataclass(frozen=True)
class ScoreMaps:
    """Raw anomaly scores, higher is more anomalous, in no fixed range.

    Args:
        maps: ``(B, H, W)`` float32.
        image_scores: ``(B,)`` float32.
    """

    maps: Tensor
    image_scores: Tensor


@dataclass(frozen=True)
class Frame:
    """The shapes that the scoring of one image has.

    Args:
        taps: (C, h, w) of each tap that the method reads, shallow to deep.
        map_size: height and width of the score map.
        region: whether there is a region of interest.
    """

    taps: tuple[tuple[int, ...], ...]
    map_size: tuple[int, int]
    region: bool = False


@dataclass(frozen=True)
class NominalScores:
    """Scores of nominal training images by a state that took nothing from them: each left out, or held out of training.

    A nominal-only threshold may read these scores alone.

    Args:
        image_ids: (n,) which.
        scores: (n,) their image scores.
        map_maxima: (n,) the highest score of each one's map, which an image score need not be: their quantile is a
            threshold that bounds the part of nominal images with any pixel above it. For an ensemble these are upper
            bounds, from the maxima of its members, which may lie on different pixels.
        groups: (n,) number of the group of each, where near-copies were left out together; empty: each is alone.
        left_out: how they were kept from having shaped the state, for people; empty: image by image, or held out.
    """

    image_ids: list[str]
    scores: list[float]
    map_maxima: list[float]
    groups: list[int] = field(default_factory=list)
    left_out: str = ""


def by_image(ids: Sequence[str], matches: Matches) -> dict[str, Matches]:
    """The matches of a batch (B, ...) by image; `together` is the inverse."""
    return {image_id: {name: part[number] for name, part in matches.items()} for number, image_id in enumerate(ids)}


def together(ids: Sequence[str], parts: Mapping[str, Matches]) -> Matches:
    """The matches of some of the images as a batch (B, ...)."""
    import torch

    return {name: torch.stack([parts[image_id][name] for image_id in ids]) for name in parts[ids[0]]}


def check_finite(*tensors: Tensor) -> None:
    """Refuse features that no score can come from.

    Raises:
        ValueError: NaN or infinity.
    """
    if not all(map(all_finite, tensors)):
        raise ValueError("features hold NaN or infinity: check the images, or use precision float32")


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; with one, the sum is so too. Where a sum overflows, each is looked at."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
