"""Attention of FOD with its distance from a target correlation (Yao et al., Focus the Discrepancy, ICCV 2023).

S = softmax(scale Q K^T) is compared with T, Gaussian in the distance on the grid (equation 5): Div = KL(T, S) +
KL(S, T) and the entropy of S (equations 6 and 7), one value for every row. Rows of T sum to one, so T is the outer
product of two softmaxes, over the rows of the grid and over its columns: nothing of the size of S is ever kept. The
forward pass walks over tiles of rows that stay in cache; the backward pass computes them again.

Departures from the paper, as in the authors' code: T is separable and normalised, and logarithms are those of values
+ `EPSILON`. Appendix A.1 stops gradients at S in one phase and at T in the other, so Div comes out twice, with equal
values: the gradient of one reaches T only, that of the other S only. Both phases are then one backward pass.

With u = S + e, v = T + e: Div = sum (v - u) ln(v / u), dDiv/dT = ln(v / u) + 1 - u / v, dDiv/dS = 1 - v / u - ln(v / u)
and dEnt/dS = e / u - 1 - ln u. Of the gradient of S a constant per row is left out: the softmax does not see it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ad_assets.kernels.correlation_rows import EPSILON, compare, descend
from ad_assets.kernels.nearest.bounds import full_precision, tile_of_products
from ad_assets.kernels.parallel import each

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    Task = Callable[[int, slice, int], None]  # of one image, some of its heads, and rows of a tile

CPU_TILE_BYTES = 1 << 20  # a matrix of a tile; two of them, and what products pack, stay in the cache of a core
DEVICE_TILE_BYTES = 256 << 20
PLAIN_TILE_BYTES = 32 << 20
TILES_AT_ONCE = 10  # of a device: S, its gradient, T, logarithms and products; counted on the emulated one


class Correlated(NamedTuple):
    """What a branch computes.

    Args:
        output: (B, heads, L, d), S V.
        div_of_target: (B, heads, L), KL(T, S) + KL(S, T) in nats, not negative; its gradient reaches T only.
        div_of_correlation: the same values; their gradient reaches S only.
        entropy: (B, heads, L), of S, in nats; its gradient reaches S. None where it was not asked for.
    """

    output: Tensor
    div_of_target: Tensor
    div_of_correlation: Tensor
    entropy: Tensor | None


def target_factors(sigma: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The target correlations of all places as factors: T[(i, j), (r, c)] = R[(i, j), r] C[(i, j), c].

    Args:
        sigma: (..., H W, 2) floating point, standard deviation along rows and columns in cells, 1e-6 or more.
        grid: H and W; places are ordered by row, then column.

    Returns:
        R (..., H W, H) and C (..., H W, W); every row sums to one.

    Raises:
        ValueError: not two sigmas for every place of the grid.
    """
    height, width = grid
    if sigma.shape[-2:] != (height * width, 2):
        raise ValueError(f"sigma must be (..., {height * width}, 2) for a grid of {grid}, got {tuple(sigma.shape)}")
    place = torch.arange(height * width, device=sigma.device)
    factors = []
    for axis, (own, size) in enumerate(((place // width, height), (place % width, width))):
        away = torch.arange(size, device=sigma.device) - own.unsqueeze(1)
        # Divided first, then squared: a square of the smallest sigma would have few digits left in float32.
        factors.append((-0.5 * (away / sigma[..., axis].unsqueeze(-1)).square()).softmax(dim=-1))
    return factors[0], factors[1]


def correlate(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, scale: float, *, entropy: bool = True
) -> Correlated:
    """Attention of a batch with the divergence of its correlations from their targets.

    Nothing depends on the number of threads. On a CPU every image and head is a task of its own; elsewhere several are
    computed at once. Half precision is computed, and returned, in float32, under autocast too.

    Args:
        q: (B, heads, L, d) floating point queries.
        k: (B or 1, heads, H W, d) keys; 1: shared by the batch.
        v: (B or 1, heads, H W, d) values.
        rows: (B, heads, L, H) row factors of the targets, see `target_factors`; every row sums to one.
        columns: (B, heads, L, W) column factors.
        scale: of the products of q and k.
        entropy: whether it is computed.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(q, k, v, rows, columns)
    with torch.autocast(q.device.type, enabled=False):
        inputs = [_wide(tensor) for tensor in (q, k, v, rows, columns)]
        if q.device.type == "cpu" or len(q) == 1:
            return Correlated(*_Correlate.apply(*inputs, scale, entropy))
        # To another device the heads of all images are heads of one.
        joined = [tensor.expand(len(q), -1, -1, -1).flatten(0, 1).unsqueeze(0) for tensor in inputs]
        *found, entropies = _Correlate.apply(*joined, scale, entropy)
        output, of_target, of_correlation = (part[0].unflatten(0, q.shape[:2]) for part in found)
        entropies = entropies if entropies is None else entropies[0].unflatten(0, q.shape[:2])
        return Correlated(output, of_target, of_correlation, entropies)


def device_bytes(heads: int, length: int, keys: int) -> int:
    """The most that tiles take on a device, forward and backward, for so many heads of all images in float32."""
    rows = min(heads * length, max(1, DEVICE_TILE_BYTES // (4 * keys)))
    return TILES_AT_ONCE * 4 * rows * keys


def correlate_plainly(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, scale: float) -> Correlated:
    """As `correlate` without gradients and entropy, by operations of torch alone, for exporters: of one image."""
    step = max(1, PLAIN_TILE_BYTES // (4 * q.shape[1] * k.shape[2]))
    outputs, divs = [], []
    for part in _steps(q.shape[2], step):
        s = torch.softmax((q[:, :, part] * scale) @ k.mT, dim=3)
        outputs.append(s @ v)
        target = (rows[:, :, part, :, None] * columns[:, :, part, None, :]).flatten(3)
        u, t = s + EPSILON, target + EPSILON
        divs.append(((t - u) * (t / u).log()).sum(dim=3))
    div = torch.cat(divs, dim=2)
    return Correlated(torch.cat(outputs, dim=2), div, div, None)


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """As `attend`, by operations of torch alone, for exporters: of one image."""
    step = max(1, PLAIN_TILE_BYTES // (4 * q.shape[1] * k.shape[2]))
    parts = [torch.softmax((q[:, :, part] * scale) @ k.mT, dim=3) @ v for part in _steps(q.shape[2], step)]
    return torch.cat(parts, dim=2)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """The output (B, heads, L, d) alone, in float32 at least; arguments and errors as for `correlate`."""
    _check(q, k, v)
    with torch.autocast(q.device.type, enabled=False), full_precision():
        q, k, v = (_wide(tensor) for tensor in (q, k, v))
        k, v = (tensor.expand(len(q), -1, -1, -1) for tensor in (k, v))
        return functional.scaled_dot_product_attention(q, k, v, scale=scale)


def _check(q: Tensor, k: Tensor, v: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    if q.ndim != 4 or k.shape != v.shape or k.ndim != 4 or len(k) not in (1, len(q)):
        raise ValueError(
            f"q must be (B, heads, L, d), k and v (B or 1, heads, keys, d), got {tuple(q.shape)}, {tuple(k.shape)} and "
            f"{tuple(v.shape)}"
        )
    if (q.shape[1], q.shape[3]) != (k.shape[1], k.shape[3]):
        raise ValueError(f"q has {q.shape[1]} heads of {q.shape[3]}, k has {k.shape[1]} heads of {k.shape[3]}")
    if rows is None or columns is None:
        return
    if rows.shape[:3] != q.shape[:3] or columns.shape[:3] != q.shape[:3]:
        raise ValueError(f"factors must be {tuple(q.shape[:3])} + (H,) and (W,), got {rows.shape}, {columns.shape}")
    if rows.shape[3] * columns.shape[3] != k.shape[2]:
        raise ValueError(f"factors of a grid of {rows.shape[3]} x {columns.shape[3]} for {k.shape[2]} keys")


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class _Correlate(torch.autograd.Function):
    """`correlate`, with a backward pass that computes S and T again."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, scale: float, entropy: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        ctx.save_for_backward(q, k, v, rows, columns)
        ctx.scale = scale
        ctx.set_materialize_grads(False)
        output = _heads_last(q, q.shape)
        div, ent = q.new_empty(q.shape[:3]), q.new_empty(q.shape[:3]) if entropy else None

        def task(image: int, heads: slice, step: int) -> None:
            shared = image if len(k) > 1 else 0
            keys, values = k[shared, heads].contiguous(), v[shared, heads].mT.contiguous()
            for part in _steps(q.shape[2], step):
                at = (image, heads, part)
                s = _correlation(q[at], keys, scale)
                output[at] = _products(s, values)
                compare(s, rows[at], columns[at], div[at], None if ent is None else ent[at])

        _run(task, q, k.shape[2])
        return output, div, div.clone(), ent

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, to_output: Tensor | None, to_target: Tensor | None, to_correlation: Tensor | None, to_entropy: Any
    ) -> tuple[Tensor | None, ...]:
        q, k, v, rows, columns = ctx.saved_tensors
        of_q, of_rows, of_columns = _heads_last(q, q.shape), torch.empty_like(rows), torch.empty_like(columns)
        # For every image: the order of sums over images that share keys must not depend on which thread comes first.
        of_k, of_v = (_heads_last(k, (len(q), *k.shape[1:])) for _ in range(2))

        def task(image: int, heads: slice, step: int) -> None:
            shared = image if len(k) > 1 else 0
            keys, values = k[shared, heads].contiguous(), v[shared, heads].contiguous()
            across = keys.mT.contiguous()
            # Transposed, for that is how their products are fastest.
            of_keys, of_values = torch.zeros_like(across), torch.zeros_like(across)
            for part in _steps(q.shape[2], step):
                at = (image, heads, part)
                s = _correlation(q[at], keys, ctx.scale)
                if to_output is None:
                    gradient = torch.zeros_like(s)
                else:
                    upstream = _wide(to_output[at]).contiguous()
                    gradient = _products(upstream, values)
                    of_values += _products(upstream.mT, s.mT)
                weights = [None if to is None else to[at] for to in (to_target, to_correlation, to_entropy)]
                descend(s, gradient, (rows[at], columns[at]), weights, (of_rows[at], of_columns[at]))
                of_q[at] = _products(gradient, across).mul_(ctx.scale)
                of_keys += _products((q[at] * ctx.scale).mT, gradient.mT)
            of_k[image, heads], of_v[image, heads] = of_keys.mT, of_values.mT

        with torch.autocast(q.device.type, enabled=False):
            _run(task, q, k.shape[2])
        of_factors = (None, None) if to_target is None else (of_rows, of_columns)
        return of_q, _summed(of_k, len(k)), _summed(of_v, len(k)), *of_factors, None, None


def _heads_last(like: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, heads, L, d), empty, in the memory order of linear layers: heads are split and joined without a copy."""
    images, heads, length, size = shape
    return like.new_empty(images, length, heads, size).transpose(1, 2)


def _correlation(q: Tensor, keys: Tensor, scale: float) -> Tensor:
    """S (G, t, Lk) of queries (G, t, d) and keys (G, Lk, d)."""
    s = _products(q * scale, keys)
    return torch.softmax(s, dim=2, out=s)


def _products(one: Tensor, other: Tensor) -> Tensor:
    """(G, n, d) and (G, m, d) to (G, n, m); a processor is given one matrix at a time.

    Contiguous or the transpose of such: of another stride, oneDNN takes a thousand times as long.
    """
    if len(one) == 1 and one.device.type == "cpu" and one.dtype == torch.float32:
        return tile_of_products(one[0], other[0], one.new_zeros(other.shape[1])).unsqueeze(0)
    return torch.bmm(one, other.mT)


def _steps(rows: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, rows)) for first in range(0, rows, step)]


def _summed(per_image: Tensor, images: int) -> Tensor:
    """(B, ...) to (images, ...): the sum over the batch, image after image, of what it shares."""
    if images == len(per_image):
        return per_image
    total = per_image[:1].clone()
    for one in per_image[1:]:
        total += one
    return total


def _run(task: Task, q: Tensor, keys: int) -> None:
    """Call the task for all images and heads of queries that are compared with so many keys."""
    with full_precision():
        if q.device.type == "cpu":
            _on_threads(task, q, keys)
        else:
            _in_groups(task, q, keys)


def _on_threads(task: Task, q: Tensor, keys: int) -> None:
    images, heads, length = q.shape[:3]
    step = min(length, max(1, CPU_TILE_BYTES // (keys * q.element_size())))

    def alone(place: tuple[int, int]) -> None:
        task(place[0], slice(place[1], place[1] + 1), step)

    for _ in each(alone, [(image, head) for image in range(images) for head in range(heads)], "cpu"):
        pass


def _in_groups(task: Task, q: Tensor, keys: int) -> None:
    images, heads, length = q.shape[:3]
    rows = max(1, DEVICE_TILE_BYTES // (keys * q.element_size()))
    for image in range(images):
        for some in _steps(heads, max(1, rows // length)):
            task(image, some, min(rows, length))
