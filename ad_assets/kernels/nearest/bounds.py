"""Squared distances from matrix products, |x|^2 - 2 x.c + |c|^2: fast, and off by a rounding error of known size.

The kernels let them choose candidates only. They add the error below to stay on the safe side and decide on direct
differences in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

FLOAT32_ROUNDOFF = 2.0**-24
CPU_TILE_BYTES = 16 << 20  # what is written by one step and read by the next should still be in the outer cache
DEVICE_TILE_BYTES = 1 << 30  # more at once saves no time, and some kernels count in 32 bits
CENTRE_SAMPLE = 1024
# Below so many rows, packing the other matrix costs more than a convolution gains.
FEWEST_SCREENED = 48  # against a few other rows
FEWEST_CONVOLVED = 200  # against a hundred
CHECKED_ROWS = 1 << 14
LARGEST_VALUE = 1e15  # squares of larger ones, summed, overflow float32


def checked_rows(name: str, rows: Tensor) -> None:
    """Refuse what is no matrix of finite numbers.

    Raises:
        ValueError: not (n, D), empty, not floating point, NaN, infinity or beyond `LARGEST_VALUE`.
    """
    if rows.ndim != 2 or 0 in rows.shape or not rows.is_floating_point():
        raise ValueError(f"{name} must be (rows, D) floating point and not empty, got {rows.dtype} {tuple(rows.shape)}")
    low, high = torch.stack(rows.aminmax()).tolist()  # a GPU is waited for once
    if not (low >= -LARGEST_VALUE and high <= LARGEST_VALUE):
        for first, some in enumerate(rows.split(CHECKED_ROWS)):  # they may be more than main memory holds twice
            bad = (~(some.abs() <= LARGEST_VALUE).all(dim=1)).nonzero()
            if len(bad):
                number = first * CHECKED_ROWS + int(bad[0])
                raise ValueError(f"{name} must hold finite numbers up to {LARGEST_VALUE:g}; row {number} does not")


def relative_error(dimensions: int) -> float:
    """Bound on the float32 error of such a squared distance, relative to |x|^2 + |c|^2.

    Roundings of a sum of D products behave as a random walk: 4 sqrt(D) units are four standard deviations, and blocked
    summation needs far fewer (Higham and Mary, SIAM J. Sci. Comput. 2019). The constant covers norms and centring.
    """
    return 2 * (4 * math.sqrt(dimensions) + 8) * FLOAT32_ROUNDOFF


def centre_of(rows: Tensor) -> Tensor:
    """(D,) float32 mean of some of the rows: distances do not depend on it, their rounding errors do."""
    return rows[:: max(1, len(rows) // CENTRE_SAMPLE)].mean(dim=0, dtype=torch.float32)


def squared_norms(centred: Tensor) -> Tensor:
    """(n, D) to (n,)."""
    return torch.linalg.vecdot(centred, centred)


def screened_distances(rows: Tensor, others: Tensor, norms: Tensor) -> Tensor:
    """(n, D), (m, D), (m,) float32 to (n, m): norms - 2 rows . others, the squared distances less |rows|^2.

    On a CPU the product goes through oneDNN as a convolution of 1 x 1 pixels: its AVX-512 code was 2.2 times as fast as
    the linear algebra library of the PyTorch wheels on an AMD Zen 5, where that library does without.
    """
    if len(rows) >= FEWEST_SCREENED and _convolves(rows):
        return _convolved(rows, others * -2, norms)
    return torch.addmm(norms, rows, others.T, alpha=-2)


def products(rows: Tensor, others: Tensor) -> Tensor:
    """(n, D) and (m, D) of one dtype to their (n, m) inner products."""
    if len(rows) >= FEWEST_CONVOLVED and rows.dtype == torch.float32 and _convolves(rows):
        return _convolved(rows, others, None)
    return rows @ others.T


def tile_of_products(rows: Tensor, others: Tensor, terms: Tensor) -> Tensor:
    """(n, D), (m, D), (m,) float32 to (n, m): terms + rows . others, on a CPU, for tiles of a thousand rows.

    oneDNN again, as an inner product: on one thread and with so few rows it loses less than the convolution, which was
    up to a third slower.
    """
    if torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise(rows, others, terms, "none", [], "")
    return torch.addmm(terms, rows, others.T)


def _convolves(rows: Tensor) -> bool:
    return rows.device.type == "cpu" and torch.backends.mkldnn.is_available()


def _convolved(rows: Tensor, others: Tensor, bias: Tensor | None) -> Tensor:
    """The product as a convolution of 1 x 1 pixels; see `screened_distances`."""
    n, dimensions = rows.shape
    pixels = rows.contiguous().view(1, n, 1, dimensions).permute(0, 3, 1, 2)
    weights = others.view(len(others), dimensions, 1, 1)
    # A dilation means nothing to a kernel of one pixel, but PyTorch takes oneDNN for it on a single thread too.
    product = functional.conv2d(pixels, weights, bias, dilation=2)
    return product.permute(0, 2, 3, 1).reshape(n, len(others))


def exact_distances(one: Tensor, other: Tensor) -> Tensor:
    """(..., n, D) and (..., m, D) to (..., n, m) float64 by differences: equal rows are exactly 0 apart."""
    return torch.cdist(one.double(), other.double(), compute_mode="donot_use_mm_for_euclid_dist")


def row_tiles(rows: int, bytes_per_row: int, budget: int, device: torch.device) -> Iterator[slice]:
    """Slices of rows that keep temporary tensors within a budget in bytes, at least one row each."""
    limit = min(budget, CPU_TILE_BYTES if device.type == "cpu" else DEVICE_TILE_BYTES)
    step = max(1, limit // bytes_per_row)
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))


@contextmanager
def full_precision() -> Iterator[None]:
    """Products in true float32, whatever TF32 or bfloat16 shortcuts the process allows elsewhere."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # PyTorch before 2.9
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
        return
    onednn: Any = torch.backends.mkldnn
    backends = (torch.backends.cuda.matmul, onednn.matmul, onednn.conv)
    shortcuts = [(backend, backend.fp32_precision) for backend in backends]
    shortcuts = [(backend, value) for backend, value in shortcuts if value not in ("none", "ieee")]
    for backend, _ in shortcuts:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, value in shortcuts:
            backend.fp32_precision = value
