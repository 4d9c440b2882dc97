"""Rows of a correlation against rows of its target: the part of `correlation` between the matrix products.

A processor evaluates a row in one sweep of compiled code, where S, T, their logarithms and all sums stay in registers;
other devices, and float64, do the same with an operation of torch each. The logarithm is ln x = n ln 2 + ln m with m
within a factor sqrt(2) of one, and ln m = 2 (s + s^3 / 3 + s^5 / 5 + ...), s = (m - 1) / (m + 1), of which five terms
leave 5e-9: a call of the library's would keep the compiler from computing sixteen at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float32]

EPSILON = 1e-4  # added to what a logarithm is taken of
# Sums may be reassociated, which vectorises them; nothing here is infinite or NaN unless the input is.
swept: Any = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})
inlined: Any = njit(inline="always")
TINY = np.float32(EPSILON)
LN_2 = np.float32(math.log(2))
SQRT_HALF_BITS = np.int32(np.float32(math.sqrt(0.5)).view(np.int32))
EXPONENT = np.int32(23)
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
SERIES = tuple(np.float32(2 / odd) for odd in (3, 5, 7, 9))
THIRD, FIFTH, SEVENTH, NINTH = SERIES


def compare(s: Tensor, rows: Tensor, columns: Tensor, div: Tensor, entropy: Tensor | None) -> None:
    """Write KL(T, S) + KL(S, T) and the entropy of S of every row.

    Args:
        s: (G, t, H W) correlations.
        rows: (G, t, H) row factors of T.
        columns: (G, t, W) column factors.
        div: (G, t), written.
        entropy: (G, t), written; None: not wanted.
    """
    if _compiles(s):
        wanted = entropy is not None
        entropies = (entropy if entropy is not None else div).numpy()
        _compare(s.numpy(), rows.numpy(), columns.numpy(), div.numpy(), entropies, wanted)
        return
    u, v = s + EPSILON, _target(rows, columns).add_(EPSILON)
    if entropy is not None:
        torch.sum(torch.special.xlogy(s, u).neg_(), dim=2, out=entropy)
    torch.sum(torch.special.xlogy(v - u, v.div_(u)), dim=2, out=div)


def descend(
    s: Tensor,
    gradient: Tensor,
    factors: tuple[Tensor, Tensor],
    upstream: Sequence[Tensor | None],
    to_factors: tuple[Tensor, Tensor],
) -> None:
    """From gradients of the values of rows to those of the logits of S and of the factors of T.

    Args:
        s: (G, t, H W) correlations.
        gradient: (G, t, H W) gradient of S from elsewhere; becomes the whole gradient of the logits.
        factors: (G, t, H) row and (G, t, W) column factors of T.
        upstream: (G, t) gradients of the divergence that reaches T, of the one that reaches S, and of the entropy;
            None: there is none.
        to_factors: of the shapes of the factors: their gradients, written where the first of those is given.
    """
    (rows, columns), (of_target, of_correlation, of_entropy), (to_rows, to_columns) = factors, upstream, to_factors
    if _compiles(s):
        none = s.new_zeros(s.shape[:2])
        weights = [(none if to is None else to.to(s.dtype).contiguous()).numpy() for to in upstream]
        shapes = (s.numpy(), gradient.numpy(), rows.numpy(), columns.numpy())
        _descend(*shapes, *weights, to_rows.numpy(), to_columns.numpy())
        return
    if not (of_target is None and of_correlation is None and of_entropy is None):
        u = s + EPSILON
        ratio = _target(rows, columns).add_(EPSILON).div_(u)
        logarithm = ratio.log()
        if of_target is not None:
            of_t = (logarithm - ratio.reciprocal()).add_(1).mul_(of_target.unsqueeze(2))
            of_t = of_t.unflatten(2, (rows.shape[2], columns.shape[2]))
            to_rows.copy_((of_t * columns.unsqueeze(2)).sum(dim=3))
            to_columns.copy_((of_t * rows.unsqueeze(3)).sum(dim=2))
        if of_correlation is not None:
            gradient -= logarithm.add_(ratio).mul_(of_correlation.unsqueeze(2))
        if of_entropy is not None:
            gradient -= u.log().sub_(EPSILON / u).mul_(of_entropy.unsqueeze(2))
    gradient *= s
    gradient -= s * gradient.sum(dim=2, keepdim=True)


def _compiles(s: Tensor) -> bool:
    return s.device.type == "cpu" and s.dtype == torch.float32


def _target(rows: Tensor, columns: Tensor) -> Tensor:
    return (rows.unsqueeze(3) * columns.unsqueeze(2)).flatten(2)


@inlined
def _ln(x: Any) -> Any:
    """Natural logarithm of a positive normal float32."""
    bits = np.float32(x).view(np.int32)
    exponent = (bits - SQRT_HALF_BITS) >> EXPONENT
    mantissa = np.int32(bits - (exponent << EXPONENT)).view(np.float32)
    s = (mantissa - ONE) / (mantissa + ONE)
    w = s * s
    return np.float32(exponent) * LN_2 + s * (TWO + w * (THIRD + w * (FIFTH + w * (SEVENTH + w * NINTH))))


@swept
def _fill(target: Floats, rows: Floats, columns: Floats) -> None:
    """One row of T + EPSILON, of H W values."""
    for r in range(len(rows)):
        for c in range(len(columns)):
            target[r * len(columns) + c] = rows[r] * columns[c] + TINY


@swept
def _compare(s: Floats, rows: Floats, columns: Floats, div: Floats, entropy: Floats, wanted: bool) -> None:
    target = np.empty(s.shape[2], dtype=np.float32)
    for g in range(s.shape[0]):
        for i in range(s.shape[1]):
            _fill(target, rows[g, i], columns[g, i])
            between = disorder = ZERO
            for j in range(s.shape[2]):
                value = s[g, i, j]
                u, v = value + TINY, target[j]
                logarithm = _ln(u)
                between += (v - u) * (_ln(v) - logarithm)
                disorder -= value * logarithm
            div[g, i] = between
            if wanted:
                entropy[g, i] = disorder


@swept
def _descend(
    s: Floats,
    gradient: Floats,
    rows: Floats,
    columns: Floats,
    of_target: Floats,
    of_correlation: Floats,
    of_entropy: Floats,
    to_rows: Floats,
    to_columns: Floats,
) -> None:
    height, width = rows.shape[2], columns.shape[2]
    target = np.empty(height * width, dtype=np.float32)
    for g in range(s.shape[0]):
        for i in range(s.shape[1]):
            _fill(target, rows[g, i], columns[g, i])
            to_t, to_s, to_h, total = of_target[g, i], of_correlation[g, i], of_entropy[g, i], ZERO
            for j in range(height * width):
                value, v = s[g, i, j], target[j]
                u = value + TINY
                less = ONE / u
                of_u = _ln(u)
                logarithm = _ln(v) - of_u
                target[j] = to_t * (logarithm + ONE - u / v)
                of_s = gradient[g, i, j] - to_s * (logarithm + v * less) - to_h * (of_u - TINY * less)
                gradient[g, i, j] = of_s
                total += value * of_s
            for j in range(height * width):
                gradient[g, i, j] = s[g, i, j] * (gradient[g, i, j] - total)
            if to_t != ZERO:
                _contract(target, rows[g, i], columns[g, i], to_rows[g, i], to_columns[g, i])
            else:
                to_rows[g, i], to_columns[g, i] = ZERO, ZERO


@swept
def _contract(of_target: Floats, rows: Floats, columns: Floats, to_rows: Floats, to_columns: Floats) -> None:
    """The gradient (H W,) of one row of T to those of its factors."""
    to_columns[:] = ZERO
    for r in range(len(rows)):
        along = ZERO
        for c in range(len(columns)):
            value = of_target[r * len(columns) + c]
            along += value * columns[c]
            to_columns[c] += value * rows[r]
        to_rows[r] = along
