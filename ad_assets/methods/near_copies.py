"""Nominal images that are near-copies of one another: overlapping crops, frames of one part, one part lit in two ways.

Whoever leaves out one of them and not its copies finds the copies, and its score is far below that of a new image.
They are found by the features that a detector reads. Patches of an image are compared with all patches of each other
image. The usual distance of a patch is the upper quartile over the other images; the patch is shared with an image that
has one closer than `CLOSE` times the usual. Two images are near-copies where one shares at least `SHARE` of its patches
with the other. What is linked by near-copies is one group.

Measured with EfficientNet-Lite0, 60 images each: the demo's `brick`, crops of one half of a photograph, falls into 5
groups, two of them of 25 and 26 images; `board`, drawn one by one, into 60. Of 60 free magnetic tiles 18 are nine
pairs, each one tile in two exposures; shares from 0.25 to 0.5 find the same pairs but one. Where all images are frames
of one part, nothing in them says so: then only new parts tell what is usual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ad_assets.methods.patch_embedding import embed
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.data import Features

CLOSE, USUAL, SHARE = 0.6, 0.75, 1 / 3
PATCHES = 49  # of an image that are looked for in the others, evenly spaced
SIDE = 32  # cells; finer maps are read at a stride
DIMENSIONS = 64  # random projection of larger patch features
FEWEST = 8  # images; of fewer nobody knows what is usual
MOST_COMPARED = 400  # images; of more only the chosen ones are looked for in all
QUERIES_AT_ONCE = 128  # whose products with a batch stay in the cache


def near_copy_groups(features: Features, chosen: Sequence[str], runtime: Runtime) -> list[frozenset[str]]:
    """The groups of two and more near-copies that have an image among the chosen ones.

    Args:
        features: nominal images, as the detector reads them.
        chosen: some of them; of a large set only these are looked for in all images, so that a chain of copies that
            leads through others may break.
        runtime: device.
    """
    import torch
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ids = features.image_ids
    if len(ids) < FEWEST:
        return []
    asked = images_compared(features, chosen)
    number = {image: position for position, image in enumerate(ids)}
    own = torch.tensor([number[image] for image in asked])
    distances = _distances(features, asked, runtime)
    distances[torch.arange(len(asked)), :, own] = torch.nan  # no image is compared with itself
    usual = distances.nanquantile(USUAL, dim=2, keepdim=True)
    shared = (distances < CLOSE * usual).float().mean(dim=1)
    first, second = (shared >= SHARE).nonzero().T
    links = coo_array((torch.ones(len(first)).numpy(), (own[first].numpy(), second.numpy())), shape=(len(ids),) * 2)
    _, labels = connected_components(links, directed=False)
    groups: dict[int, set[str]] = {}
    for image, label in zip(ids, labels.tolist(), strict=True):
        groups.setdefault(label, set()).add(image)
    wanted = set(chosen)
    return [frozenset(group) for group in groups.values() if len(group) > 1 and group & wanted]


def images_compared(features: Features, chosen: Sequence[str]) -> list[str]:
    """The images that are looked for in all others: all, or of a large set the chosen ones."""
    wanted = set(chosen)
    return [image for image in features.image_ids if len(features) <= MOST_COMPARED or image in wanted]


def _distances(features: Features, asked: Sequence[str], runtime: Runtime) -> Tensor:
    """(Q, patches, N) float32: from patches of the asked images to the nearest patch of each image."""
    import torch

    from ad_assets.kernels.parallel import each

    embedded = _Embedded(features, runtime)
    queries = torch.cat(
        [
            patches[:, _evenly(patches.shape[1])]
            for _, taps in replace(features, image_ids=tuple(asked)).batches()
            for patches in [embedded(taps)]
        ]
    )
    flat = queries.flatten(0, 1)
    found = torch.empty(len(flat), len(features))

    def compare(ids: tuple[str, ...]) -> Tensor:
        patches = embedded(features.load(ids, features.layers))
        rows, norms = patches.flatten(0, 1), patches.square().sum(dim=2).flatten()
        nearest = []
        for few in flat.split(QUERIES_AT_ONCE):
            # The lowest first: what is the same for all patches of an image comes after it.
            squares = torch.addmm(norms, few, rows.T, alpha=-2).unflatten(1, patches.shape[:2]).amin(dim=2)
            nearest.append(squares.add_(few.square().sum(dim=1, keepdim=True)).clamp_(min=0).sqrt_())
        return torch.cat(nearest).cpu()

    done = 0
    for part in each(compare, features.id_batches(), runtime.device):
        found[:, done : done + part.shape[1]] = part
        done += part.shape[1]
        runtime.report("images compared for near-copies", done, len(features))
    return found.unflatten(0, queries.shape[:2])


class _Embedded:
    """Patch features of images, around the mean of the first, in few dimensions."""

    def __init__(self, features: Features, runtime: Runtime) -> None:
        import torch

        sample = features.sample()
        self._stride, self._device = math.ceil(max(sample[0].shape[2:]) / SIDE), runtime.device
        first = self._patches(sample)
        self._mean, size = first.mean(dim=(0, 1)), first.shape[2]
        self._projection = None
        if size > DIMENSIONS:
            random = torch.Generator().manual_seed(0)
            projection = torch.randn(size, DIMENSIONS, generator=random) / math.sqrt(DIMENSIONS)
            self._projection = projection.to(runtime.device)

    def __call__(self, taps: list[Tensor]) -> Tensor:
        """(B, P, D) on the device."""
        patches = self._patches(taps) - self._mean
        return patches if self._projection is None else patches @ self._projection

    def _patches(self, taps: list[Tensor]) -> Tensor:
        taps = [tap.to(self._device) for tap in taps]
        return embed(taps, patch_size=3, stride=self._stride, pooling="concat")


def _evenly(count: int) -> Tensor:
    import torch

    step = max(1, count // PATCHES)
    return torch.arange(step // 2, count, step)
