"""Drift of scores, told with an error rate: a conformal test martingale on online p-values.

A p-value ranks a score among all scores before it, nominal calibration scores first. For exchangeable images these
p-values are independent and uniform (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2nd ed. 2022,
chapter 8), so a gambler who bets on each before it is seen cannot expect to gain: the wealth is a martingale, and the
chance that it ever reaches 1 / alpha is at most alpha (Ville's inequality). One may look after every image.

The scores before must grow with each image. Ranked among a fixed calibration set, all p-values share the luck of that
set: they are uniform on average, but not independent, and in a long run the wealth of a good line grows without bound.

The gambler is the simple jumper (Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman, "Retrain or not retrain:
conformal test martingales for change-point detection", COPA 2021) with more bets than its linear ones: powers of p and
of 1 - p (Vovk, Nouretdinov, Gammerman, "Testing exchangeability on-line", ICML 2003) find a large shift within a few
images. Both directions are bet on: too low scores are a change too, as of a dirty lens or a lamp that is off.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

JUMP = 0.01  # part of the wealth that changes its bet before each image, as in the paper
LINEAR = 1.0  # slope of the linear bets
POWERS = (0.3, 0.6)
HIGHER, LOWER = "higher", "lower"


class OnlineRanks:
    """Smoothed conformal p-values of scores that come one by one; small for high scores.

    Args:
        calibration: (n,) finite scores that come first, in any order.
    """

    def __init__(self, calibration: Sequence[float]) -> None:
        self._seen = sorted(calibration)

    def add(self, score: float, u: float) -> float:
        """The p-value of the next score: (number of higher scores before + u (number of equal ones + 1)) / (n + 1).

        Args:
            score: finite.
            u: uniform in (0, 1) and independent of everything, which makes the p-value exactly uniform.
        """
        first, last = bisect.bisect_left(self._seen, score), bisect.bisect_right(self._seen, score)
        higher, equal = len(self._seen) - last, last - first + 1
        p_value = (higher + u * equal) / (len(self._seen) + 1)
        self._seen.insert(last, score)
        return p_value


class Martingale:
    """The wealth of the gambler, 1 at the start."""

    def __init__(self) -> None:
        count = 3 + 2 * len(POWERS)
        self._capital = np.full(count, 1 / count)

    @property
    def wealth(self) -> float:
        """The wealth now."""
        return float(self._capital.sum())

    @property
    def direction(self) -> str:
        """`HIGHER` if most of the wealth is on scores that are higher than usual, else `LOWER`."""
        half = 1 + len(POWERS)
        return HIGHER if self._capital[1 : 1 + half].sum() >= self._capital[1 + half :].sum() else LOWER

    def bet(self, p_value: float) -> float:
        """The wealth after the next p-value, in (0, 1)."""
        self._capital = (1 - JUMP) * self._capital + JUMP * self._capital.mean()
        self._capital *= _odds(p_value)
        return self.wealth


def _odds(p_value: float) -> NDArray[np.float64]:
    """What each bet pays, on average 1 over all p-values: none, then those on small ones, then those on large ones."""
    odds = [1.0]
    for p in (p_value, 1 - p_value):
        p = max(p, 1e-9)  # rounding must not give 0, on which a power would pay without bound
        odds += [1 + LINEAR * (0.5 - p), *(power * p ** (power - 1) for power in POWERS)]
    return np.array(odds)
