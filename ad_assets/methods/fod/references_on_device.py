"""Reference features of a batch on a GPU: what `references` finds image by image, in few and large products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ad_assets.kernels.parallel import spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def heaviest(prototypes: Tensor, tokens: Tensor) -> Tensor:
    """(B, L, D): of the prototypes (L, M, D) of its place the heaviest for each of the tokens (B, L, D)."""
    products = torch.bmm(prototypes, functional.normalize(tokens, dim=2).permute(1, 2, 0))  # (L, M, B)
    place = torch.arange(len(prototypes), device=tokens.device)
    return prototypes[place, products.argmax(dim=1).T]


def nearest_around(
    bank: Tensor, tokens: Tensor, grid: tuple[int, int], window: int, skipped: Sequence[int], memory_gb: float
) -> Tensor:
    """(B, L, D): for each of the tokens (B, L, D) the nearest in the windows of all images but one.

    Args:
        bank: (L, N, D), tokens of N images, those of a place together.
        tokens: on the device of the bank.
        grid: H and W.
        window: side of the windows, odd.
        skipped: for each of the B which of the N is left out, -1: none.
        memory_gb: budget in GB of temporary tensors; at least a row of the grid is worked on at once.
    """
    (height, width), (places, images, size), reach = grid, bank.shape, window // 2
    count = window * window * len(tokens)
    # (H + 2 r, W + 2 r, D, B)
    padded = functional.pad(tokens.unflatten(1, grid), (0, 0, reach, reach, reach, reach)).permute(1, 2, 3, 0)
    least = bank.new_empty(places, count)
    nearest = torch.empty(places, count, dtype=torch.int64, device=bank.device)
    # Products, what lies around each place, and the norms of a place.
    bytes_each = 4 * width * (images * count + size * count + images * size)
    for rows in spans(height, max(1, int(memory_gb * 1e9) // bytes_each)):
        part = slice(rows.start * width, rows.stop * width)
        around = padded[rows.start : rows.stop + 2 * reach].unfold(0, window, 1).unfold(1, window, 1)
        around = around.permute(0, 1, 2, 4, 5, 3).reshape(-1, size, count)
        norms = bank[part].square().sum(dim=2, keepdim=True)
        squares = torch.baddbmm(norms, bank[part], around, alpha=-2)
        for number, image in enumerate(skipped):
            if image >= 0:
                squares[:, image, number :: len(tokens)] = torch.inf
        torch.min(squares, dim=1, out=(least[part], nearest[part]))
    nearest += images * torch.arange(places, device=bank.device)[:, None]  # rows of the flattened bank
    best = bank.new_full((*padded.shape[:2], len(tokens)), torch.inf)
    chosen = torch.zeros(best.shape, dtype=torch.int64, device=bank.device)
    values, rows_of = (found.unflatten(1, (window, window, -1)).unflatten(0, grid) for found in (least, nearest))
    for down in range(window):
        for across in range(window):
            at = (slice(down, down + height), slice(across, across + width))
            nearer = values[:, :, down, across] < best[at]
            best[at] = torch.where(nearer, values[:, :, down, across], best[at])
            chosen[at] = torch.where(nearer, rows_of[:, :, down, across], chosen[at])
    inside = chosen[reach : reach + height, reach : reach + width].flatten(0, 1)
    return bank.flatten(0, 1)[inside.T]
