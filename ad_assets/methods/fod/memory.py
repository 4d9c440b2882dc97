"""What FOD holds on a GPU at once, so that batches are split, or refused, before anything is computed.

Upper bounds, fitted to what the emulated device counts (`tests/methods/training/test_device_memory.py` holds them to
that): activations of every layer are kept for the backward pass, tiles of correlations are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ad_assets.kernels.correlation import device_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ad_assets.methods.fod.fod import Fod

Grid = tuple[int, int]


def training_bytes(method: Fod, number: int, channels: int, grid: Grid, images: int) -> int:
    """Of the gradients of one level for so many images at once, weights left aside."""
    return _bytes(method, number, channels, grid, images, method.depth)


def scoring_bytes(method: Fod, number: int, channels: int, grid: Grid, images: int) -> int:
    """Of the scores of one level for so many images at once: no layer is kept."""
    return _bytes(method, number, channels, grid, images, 1)


def largest_part(parts: Iterable[int], need: Callable[[int], int], budget: float) -> int:
    """The first of these numbers of images, from large to small, whose need in bytes is within a budget; at least 1."""
    return next((part for part in parts if need(part) <= budget), 1)


def _bytes(method: Fod, number: int, channels: int, grid: Grid, images: int, kept_layers: int) -> int:
    (height, width), branches = grid, max(1, len(method.branches))
    places = images * height * width
    # Queries, keys, values and outputs of each branch, and four times the width twice in the feed-forward network.
    each_place = (10 + 6 * branches) * method.widths[number]
    # Sigmas, distances on the grid and both factors of the targets.
    each_place += 7 * branches * method.heads * (height + width) // 2
    whole = 4 * places * (kept_layers * each_place + 11 * channels)
    return whole + device_bytes(images * method.heads, height * width, height * width)
