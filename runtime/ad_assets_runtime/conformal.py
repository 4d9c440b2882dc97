"""Conformal p-values of scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def p_values(scores: ArrayLike, nominal_scores: ArrayLike, groups: Sequence[int]) -> NDArray[np.float64]:
    """How rare such a score is among nominal images: (1 + number of nominal scores >= score) / (n + 1).

    A new nominal image has a p-value of at most r with probability at most r (Vovk et al. 2005), for every r. With at
    least 1 / r - 1 nominal scores, p <= r is the same decision as a score above ``nominal_quantile`` at the rate r.

    Args:
        scores: (m,) finite.
        nominal_scores: (n,) scores of nominal images that did not shape the detector.
        groups: (n,) number of the group of each score, where the number of scores at least as high is a sum of shares
            of groups; empty: each is alone.

    Returns:
        (m,) in [1 / (n + 1), 1].

    Raises:
        ValueError: no nominal scores, or a score that is not finite.
    """
    nominal = finite_scores(nominal_scores)
    if len(nominal) == 0:
        raise ValueError("no nominal scores: a p-value needs at least one nominal image kept out of the fit")
    order = np.argsort(nominal, kind="stable")
    first = np.searchsorted(nominal[order], finite_scores(scores), side="left")
    if not len(groups):
        values: NDArray[np.float64] = (1 + len(nominal) - first) / (len(nominal) + 1)
        return values
    above = np.append(np.cumsum(group_weights(groups)[order][::-1])[::-1], 0.0)[first]
    shared: NDArray[np.float64] = 1 / (len(set(groups)) + 1) + above
    return shared


def group_weights(groups: Sequence[int]) -> NDArray[np.float64]:
    """(n,): of each score, such that every group has 1 / (number of groups + 1) in all."""
    _, position, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / (sizes[position] * (len(sizes) + 1.0))


def finite_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """(n,) float64.

    Raises:
        ValueError: not one-dimensional, or NaN or infinity, with its position.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores must be (n,), got shape {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"scores[{bad[0]}] is {values[bad[0]]}; scores must be finite")
    return values
