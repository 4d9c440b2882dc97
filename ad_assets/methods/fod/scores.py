"""Scores of patches from a network of FOD (Yao et al., Focus the Discrepancy, ICCV 2023, equation 12).

A patch scores its reconstruction error times a weight that grows with how unlike a nominal patch it correlates. As in
the authors' code the error is a mean of squares, and the weight max(a) - a with a = softmax of -Div over the places of
the image: the most nominal patch weighs nothing. The maximum is taken for each image (theirs is over the batch, which
is one image there). `printed` has the paper's instead: the L2 norm, and 1 - a, which is all but constant.

Training brings S of nominal patches near its target in the inter branch, and far from it in the intra branch (appendix
A.1), so a nominal patch has a small Div there and a large one here: for ``intra`` a is the softmax of +Div, and
``both`` has that of their difference. The paper has no formula for either.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ad_assets.methods.fod.network import BRANCHES, Branch, LevelNetwork, Reconstructed

Criterion = Literal["rec", "div", "rec_div"]
Weighing = Literal["intra", "inter", "both"]


def patch_scores(
    network: LevelNetwork,
    tokens: Tensor,
    reference: Tensor | None,
    grid: tuple[int, int],
    *,
    criterion: Criterion = "rec_div",
    weighing: Weighing = "inter",
    printed: bool = False,
) -> Tensor:
    """Scores (B, L) float32 of a batch: an image's do not depend on the others, and a CPU takes one after another.

    Args:
        network: on the device of the tokens.
        tokens: (B, H W, D) float32.
        reference: (B or 1, H W, D) float32; None where the network needs none.
        grid: H and W.
        criterion: the reconstruction error (``rec``), the weight (``div``), or their product (``rec_div``).
        weighing: branches that the weight comes from.
        printed: as equation 12 is printed.

    Raises:
        ValueError: a weight from a branch that the network does not have.
    """
    wanted: Collection[Branch] = () if criterion == "rec" else BRANCHES if weighing == "both" else (weighing,)
    missing = [branch for branch in wanted if branch not in network.branches]
    if missing:
        raise ValueError(
            f"criterion {criterion} weighs by {weighing}, and the network has no {missing[0]} branch: use criterion "
            "rec, or train with the branch"
        )
    scores = []
    with torch.no_grad():
        size = 1 if tokens.device.type == "cpu" else len(tokens)
        for first, own in zip(range(0, len(tokens), size), tokens.split(size), strict=True):
            its = reference if reference is None or len(reference) == 1 else reference[first : first + size]
            found = network(own, its, grid, correlations=wanted, entropy=False)
            error = errors(own, found.tokens, printed=printed) if criterion != "div" else torch.ones(())
            scores.append(error.to(own) * weights(found, printed=printed) if wanted else error)
    return torch.cat(scores)


def errors(tokens: Tensor, reconstruction: Tensor, *, printed: bool = False) -> Tensor:
    """(B, L): mean of squared differences (printed: their L2 norm) + 1 - cosine, of tokens (B, L, D)."""
    difference = tokens - reconstruction
    distance = difference.norm(dim=2) if printed else difference.square().mean(dim=2)
    return distance + 1 - functional.cosine_similarity(tokens, reconstruction, dim=2)


def weights(found: Reconstructed, *, printed: bool = False) -> Tensor:
    """(B, L), not negative, from the divergences of the branches that were computed."""
    away = [
        correlations.divergence() * (1 if branch == "inter" else -1)
        for branch, correlations in found.correlations.items()
    ]
    nominal = (-torch.stack(away).sum(dim=0)).softmax(dim=1)
    return 1 - nominal if printed else nominal.amax(dim=1, keepdim=True) - nominal
