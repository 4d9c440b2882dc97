"""Locally aware patch features (Roth et al., PatchCore, CVPR 2022, section 3.1, equations 1-3).

PatchCore, PatchCluster and SimpleNet describe a patch by the p x p neighbourhood of its place in every tap:

- ``authors``: what the public PatchCore implementation computes. The C p^2 values of a neighbourhood (channel
  slowest, then row, column; zeros outside) are average-pooled along that list to `pre_dimensions` values for
  each tap; the taps' values are concatenated and pooled likewise to `dimensions`. Before, the neighbourhoods
  of deeper taps are resized to the first tap's grid.
- ``concat``: the zero-padded p x p mean of every channel, deeper taps resized, channels concatenated.

Pooling works along the list and resizing across places, so they commute, and both poolings are one fixed
linear map of a neighbourhood. That map is block diagonal in the channels: it runs as one grouped p x p
convolution a tap, without ever forming the p^2 times larger neighbourhoods, and only its `dimensions`
outputs are resized.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Pooling = Literal["authors", "concat"]


def embed(
    taps: list[Tensor],
    *,
    patch_size: int = 3,
    stride: int = 1,
    pre_dimensions: int = 1024,
    dimensions: int = 1024,
    pooling: Pooling = "authors",
) -> Tensor:
    """Describe every patch of a batch.

    Args:
        taps: each (B, C, h, w) float32, shallow to deep; the first one's patch grid is the result's.
        patch_size: side p of the neighbourhood, in cells of each tap.
        stride: step between patches, in cells of each tap.
        pre_dimensions: values a tap is pooled to (``authors``).
        dimensions: values a patch ends up with (``authors``; ``concat`` keeps every channel).
        pooling: ``authors`` or ``concat``.

    Returns:
        (B, rows * columns, D) float32, patches ordered by row, then column.

    Raises:
        ValueError: no taps, taps of different batches, or a tap smaller than a patch.
    """
    import torch

    from ad_assets.kernels.parallel import each, spans

    grid = patch_grid(taps, patch_size, stride)
    channels = tuple(tap.shape[1] for tap in taps)
    device = taps[0].device
    if pooling == "concat":
        size = sum(channels)
        kernels = None
    else:
        size = dimensions
        kernels = _kernels_on(device, channels, patch_size, pre_dimensions, dimensions)
    result = torch.zeros(len(taps[0]), size, *grid, device=device)

    def describe(images: slice) -> None:
        start = 0
        for level, tap in enumerate(taps):
            part = tap[images]
            if kernels is None:
                patches = _mean(part, patch_size, stride)
            else:
                start, kernel, groups = kernels[level]
                patches = _pooled(part, kernel, groups, stride)
            if patches.shape[2:] != grid:
                patches = torch.nn.functional.interpolate(patches, grid, mode="bilinear", align_corners=False)
            result[images, start : start + patches.shape[1]] += patches
            start += patches.shape[1]

    # Image by image: convolutions may round differently in another batch, and on a CPU this is no slower. On a GPU ten
    # kernels an image would keep it waiting.
    # TF32, cuDNN's default, would cost three digits.
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        list(each(describe, spans(len(result), 1 if device.type == "cpu" else len(result)), device.type))
    return result.flatten(2).transpose(1, 2).contiguous()


def _mean(tap: Tensor, patch_size: int, stride: int) -> Tensor:
    from torch.nn.functional import avg_pool2d

    return avg_pool2d(tap, patch_size, stride, (patch_size - 1) // 2, count_include_pad=True)


def _pooled(tap: Tensor, kernel: Tensor, groups: int, stride: int) -> Tensor:
    import torch

    padding = (kernel.shape[2] - 1) // 2
    return torch.nn.functional.conv2d(tap, kernel, stride=stride, padding=padding, groups=groups)


def patch_grid(taps: list[Tensor], patch_size: int = 3, stride: int = 1) -> tuple[int, int]:
    """Rows and columns of the patch grid.

    Raises:
        ValueError: as `embed`.
    """
    if not taps:
        raise ValueError("no taps: a patch embedding needs at least one")
    for tap in taps:
        if tap.ndim != 4 or len(tap) != len(taps[0]):
            shapes = ", ".join(str(tuple(tap.shape)) for tap in taps)
            raise ValueError(f"taps must be (B, C, h, w) of one batch, got {shapes}")
        if min(_cells(tap, patch_size, stride)) < 1:
            raise ValueError(f"patch_size {patch_size} does not fit a tap of shape {tuple(tap.shape)}")
    return _cells(taps[0], patch_size, stride)


def _cells(tap: Tensor, patch_size: int, stride: int) -> tuple[int, int]:
    border = 2 * ((patch_size - 1) // 2) - patch_size
    return (tap.shape[2] + border) // stride + 1, (tap.shape[3] + border) // stride + 1


def _bounds(cell: int, cells: int, values: int) -> tuple[int, int]:
    """The range of a list of values that one cell of adaptive average pooling covers."""
    return cell * values // cells, -(-(cell + 1) * values // cells)


@lru_cache(maxsize=8)
def _kernels_on(
    device: torch.device, channels: tuple[int, ...], patch_size: int, pre: int, dimensions: int
) -> list[tuple[int, Tensor, int]]:
    """`pooling_kernels` on a device."""
    import torch

    kernels = pooling_kernels(channels, patch_size, pre, dimensions)
    return [(first, torch.from_numpy(kernel).to(device), groups) for first, kernel, groups in kernels]


@lru_cache(maxsize=8)
def pooling_kernels(
    channels: tuple[int, ...], patch_size: int, pre: int, dimensions: int
) -> list[tuple[int, np.ndarray, int]]:
    """For each tap its first output, its (outputs, C / groups, p, p) float32 weights and its groups."""
    area = patch_size**2
    kernels = []
    for level, count in enumerate(channels):
        # The outputs whose second pooling touches values level * pre .. (level + 1) * pre of the joint list.
        parts: list[tuple[int, np.ndarray]] = []
        first = level * pre * dimensions // (len(channels) * pre)
        last = -(-(level + 1) * pre * dimensions // (len(channels) * pre))
        for output in range(first, last):
            low, high = _bounds(output, dimensions, len(channels) * pre)
            cells = range(max(low - level * pre, 0), min(high - level * pre, pre))
            spans = [_bounds(cell, pre, count * area) for cell in cells]
            weights = np.zeros(spans[-1][1] - spans[0][0])
            for begin, end in spans:
                weights[begin - spans[0][0] : end - spans[0][0]] += 1 / ((high - low) * (end - begin))
            parts.append((spans[0][0], weights))
        groups = _most_groups(parts, count, area)
        kernel = np.zeros((len(parts), count // groups * area))
        for row, (begin, weights) in enumerate(parts):
            begin -= row * groups // len(parts) * (count // groups) * area
            kernel[row, begin : begin + len(weights)] = weights
        shape = (len(parts), count // groups, patch_size, patch_size)
        kernels.append((first, kernel.reshape(shape).astype(np.float32), groups))
    return kernels


def _most_groups(parts: list[tuple[int, np.ndarray]], channels: int, area: int) -> int:
    """The finest split into equal groups such that every output reads channels of its own group only."""
    common = math.gcd(len(parts), channels)
    for groups in range(common, 0, -1):
        if common % groups:
            continue
        block = channels // groups * area
        own = [row * groups // len(parts) * block for row in range(len(parts))]
        if all(
            base <= begin and begin + len(weights) <= base + block
            for base, (begin, weights) in zip(own, parts, strict=True)
        ):
            return groups
    return 1
