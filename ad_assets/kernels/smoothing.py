"""From a grid of patch scores to a map of the image: bilinear upsampling and Gaussian smoothing.

The Gaussian equals ``scipy.ndimage.gaussian_filter`` (mode ``reflect``, truncated at 4 sigma), which the authors of
PatchCore, SimpleNet and FOD apply; here it is two banded matrix products a map, on any device. HETMM's
public implementation cuts the kernel to a given size and pads maps with zeros, which is `size` and ``border="zero"``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ad_assets.kernels.nearest.bounds import full_precision
from ad_assets.kernels.parallel import each

TRUNCATE = 4.0
Border = Literal["reflect", "zero"]


def gaussian_blur(maps: Tensor, sigma: float, *, size: int | None = None, border: Border = "reflect") -> Tensor:
    """Smooth maps with a Gaussian.

    Args:
        maps: (B, H, W) float.
        sigma: standard deviation in pixels; 0 leaves maps as they are.
        size: odd side of the kernel in pixels, whose weights sum to 1; None: it ends at 4 sigma.
        border: ``reflect`` mirrors maps with their edge (d c b a | a b c d); ``zero`` takes 0 outside.

    Returns:
        (B, H, W), same dtype.

    Raises:
        ValueError: maps are not (B, H, W), sigma is negative or not finite, or size is even.
    """
    if maps.ndim != 3:
        raise ValueError(f"maps must be (B, H, W), got {tuple(maps.shape)}")
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"sigma must be 0 or positive and finite, got {sigma}")
    if sigma == 0:
        return maps
    height, width = maps.shape[1:]
    rows, columns = (matrix.to(maps) for matrix in blur_matrices((height, width), sigma, size, border))
    with full_precision():
        # Map by map: a batched product may round differently in another batch.
        return torch.stack(list(each(lambda one: rows @ one @ columns.T, maps, maps.device.type)))


def upsample(grids: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Bilinear resize of maps (B, h, w) to ``size`` = (H, W).

    Raises:
        ValueError: grids are not (B, h, w).
    """
    if grids.ndim != 3:
        raise ValueError(f"grids must be (B, h, w), got {tuple(grids.shape)}")
    return torch.nn.functional.interpolate(
        grids[:, None], size=size, mode="bilinear", align_corners=align_corners
    ).squeeze(1)


def blur_matrices(
    shape: tuple[int, int], sigma: float, size: int | None = None, border: Border = "reflect"
) -> tuple[Tensor, Tensor]:
    """The blur of maps (H, W) as matrices (H, H) and (W, W) float64: one is multiplied from the left, one transposed
    from the right.

    Args:
        shape: (H, W).
        sigma: as for `gaussian_blur`, above 0.
        size: as there.
        border: as there.

    Raises:
        ValueError: size is even.
    """
    if size is not None and (size < 1 or size % 2 == 0):
        raise ValueError(f"size must be odd, so that the kernel has a middle, got {size}")
    radius = int(TRUNCATE * sigma + 0.5) if size is None else size // 2
    rows, columns = (_blur_matrix(side, sigma, radius, border) for side in shape)
    return rows, columns


def _blur_matrix(side: int, sigma: float, radius: int, border: Border) -> Tensor:
    """(side, side) float64: one axis of the blur, with mirrored samples folded onto their sources."""
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(side, -1)
    places = torch.arange(side)[:, None] + offsets.long()[None, :]
    if border == "zero":
        kernel = kernel * ((places >= 0) & (places < side))
    # Mirrored with its edge, a line of pixels repeats after 2 side.
    places = places.remainder(2 * side)
    places = torch.where(places >= side, 2 * side - 1 - places, places)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, places, kernel)
