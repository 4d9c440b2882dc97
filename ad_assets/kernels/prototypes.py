"""Prototypes of many sets of vectors from their Gram matrices: equations 7 to 9 of HETMM (Chen et al., section 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from ad_assets.kernels.optics import compiled, in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

# Values that differ by less count as equal, and the first index goes: which of two members is the centre of their
# region would else be a matter of rounding.
TIE = 1e-12
Rule = Literal["sum", "maxmin", "repeats"]


def prototypes(grams: Tensor, labels: Tensor, sheets: int, rule: Rule = "sum") -> Tensor:
    """Equations 7-9 for P sets whose dense regions are known.

    Args:
        grams: (P, N, N) float64, cosines of all pairs.
        labels: (P, N) int64, region of every vector, negative for none.
        sheets: 1..N (``repeats``: any number).
        rule: how hard vectors are chosen: the largest sum of distances to those chosen before (``sum``), the largest
            smallest distance (``maxmin``), or ``sum`` with vectors that were chosen already (``repeats``).

    Returns:
        (P, sheets) int64, indices into N in the order of selection.
    """
    cosines, regions = grams.cpu().contiguous().numpy(), labels.cpu().numpy()
    picks = np.empty((len(regions), sheets), dtype=np.int64)
    smallest, again = rule == "maxmin", rule == "repeats"
    in_threads(lambda part: _choose(cosines[part], regions[part], smallest, again, picks[part]), len(regions))
    return torch.from_numpy(picks)


@compiled
def _choose(grams: Floats, labels: Integers, smallest: bool, again: bool, picks: Integers) -> None:
    for one in range(len(grams)):
        chosen = _centres(grams[one], labels[one], picks[one])
        _hard(grams[one], smallest, again, chosen, picks[one])


@compiled
def _centres(gram: Floats, labels: Integers, picks: Integers) -> int:
    """Equation 7 for regions in the order of their first members, or 8 where there is none; how many were chosen."""
    regions = labels.copy()
    if labels.max() < 0:  # the whole set is the one region, which makes equation 8 the same as equation 7
        regions[:] = 0
    seen = np.zeros(regions.max() + 1, dtype=np.bool_)
    chosen = 0
    for region in regions:
        if region < 0 or seen[region]:
            continue
        if chosen == len(picks):
            break
        seen[region] = True
        picks[chosen] = _centre(gram, np.flatnonzero(regions == region))
        chosen += 1
    return chosen


@compiled
def _centre(gram: Floats, members: Integers) -> int:
    """The member with the largest summed cosine to all members."""
    sums = np.zeros(len(members))
    for place, member in enumerate(members):
        for other in members:
            sums[place] += gram[member, other]
    return members[np.flatnonzero(sums >= sums.max() - TIE)[0]]


@compiled
def _hard(gram: Floats, smallest: bool, again: bool, chosen: int, picks: Integers) -> None:
    """Equation 9: fill the picks from the one numbered `chosen` on."""
    n = len(gram)
    near = np.full(n, -np.inf if smallest else 0.0)  # summed, or largest, cosine to what is chosen
    used = np.zeros(n, dtype=np.bool_)
    for place in range(len(picks)):
        if place >= chosen:
            farthest = np.inf
            for member in range(n):
                if (again or not used[member]) and near[member] < farthest:
                    farthest = near[member]
            for member in range(n):
                if (again or not used[member]) and near[member] <= farthest + TIE:
                    picks[place] = member
                    break
        pick = picks[place]
        used[pick] = True
        for member in range(n):
            cosine = gram[pick, member]
            near[member] = max(near[member], cosine) if smallest else near[member] + cosine
