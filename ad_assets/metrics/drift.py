"""Drift, told with an error rate: conformal test martingales on online p-values of scores and of image statistics.

A p-value ranks a score among all scores before it, nominal calibration scores first. For exchangeable images these
p-values are independent and uniform (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2nd ed. 2022,
chapter 8), so a gambler who bets on each before it is seen cannot expect to gain: the wealth is a martingale, and the
chance that it ever reaches 1 / alpha is at most alpha (Ville's inequality). One may look after every image.

The scores before must grow with each image. Ranked among a fixed calibration set, all p-values share the luck of that
set: they are uniform on average, but not independent, and in a long run the wealth of a good line grows without bound.

A gambler is the simple jumper (Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman, "Retrain or not retrain:
conformal test martingales for change-point detection", COPA 2021) with more bets than its linear one: powers of p
(Vovk, Nouretdinov, Gammerman, "Testing exchangeability on-line", ICML 2003) find a large shift within a few images.

Two gamblers share the wealth. One bets on higher scores, ranked after the left-out scores of training images. Those are
often higher than scores of new images, since leaving an image out leaves the others alone with a smaller memory: then
p-values are larger than uniform ones, this gambler gains less, and the error rate holds all the more. The other bets on
lower scores, as of a lamp that is off. It must not look at left-out scores, beside which every line would seem to have
become better, but only at images that no state has learnt.

Scores hide some changes: a darker image may score lower, as less of it stands out. So the statistics of images, such as
their brightness, have gamblers of their own, two a statistic. No state shapes these, so images that it has learnt are
as good as new ones. The average of martingales is one: whoever divides the error rate may watch all of them.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

JUMP = 0.01  # part of the wealth that changes its bet before each image, as in the paper
POWERS = (0.3, 0.6)
RICH = 1e15  # to which wealth grows at most: far above any limit, and no overflow where a drift goes on for ever
HIGHER, LOWER = "higher", "lower"


class OnlineRanks:
    """Smoothed conformal p-values of scores that come one by one; small for high scores.

    Args:
        calibration: (n,) finite scores that come first, in any order.
        groups: (n,) number of the group of each; empty: each is alone. A group counts as one, shared among its scores,
            as in `nominal_quantile`.
    """

    def __init__(self, calibration: Sequence[float], groups: Sequence[int] = ()) -> None:
        sizes = Counter(groups)
        weights = [1 / sizes[group] for group in groups] or [1.0] * len(calibration)
        order = sorted(range(len(calibration)), key=calibration.__getitem__)
        self._first = [calibration[number] for number in order]
        self._up_to = [0.0, *accumulate(weights[number] for number in order)]  # weight of the lowest ones
        self._later: list[float] = []

    def add(self, score: float, u: float) -> float:
        """The p-value of the next score: (number of higher scores before + u (number of equal ones + 1)) / (n + 1).

        Args:
            score: finite.
            u: uniform in (0, 1) and independent of everything, which makes the p-value exactly uniform.
        """
        lower, up_to = (self._up_to[side(self._first, score)] for side in (bisect.bisect_left, bisect.bisect_right))
        first, last = bisect.bisect_left(self._later, score), bisect.bisect_right(self._later, score)
        higher = self._up_to[-1] - up_to + len(self._later) - last
        equal = up_to - lower + last - first + 1
        p_value = (higher + u * equal) / (self._up_to[-1] + len(self._later) + 1)
        self._later.insert(last, score)
        return p_value


class Gambler:
    """Bets that p-values are small; the wealth is 1 at the start."""

    def __init__(self) -> None:
        count = len(_odds(0.5))
        self._capital = [1 / count] * count  # too few for arrays to pay: this runs for each image

    @property
    def wealth(self) -> float:
        """The wealth now."""
        return sum(self._capital)

    def bet(self, p_value: float) -> None:
        """Bet on the next p-value, in (0, 1)."""
        jumping = JUMP * sum(self._capital) / len(self._capital)
        self._capital = [
            min(((1 - JUMP) * capital + jumping) * odds, RICH)
            for capital, odds in zip(self._capital, _odds(p_value), strict=True)
        ]


class DriftMartingale:
    """The two gamblers, whose wealth together is 1 at the start, on the scores of one champion after another."""

    def __init__(self) -> None:
        self._higher, self._lower = Gambler(), Gambler()
        self.calibrate((), ())

    def calibrate(
        self, left_out: Sequence[float], judged: Sequence[float], groups: tuple[Sequence[int], Sequence[int]] = ((), ())
    ) -> None:
        """Begin with another champion.

        Args:
            left_out: (n,) scores of images that it has learnt, each without itself.
            judged: (m,) scores of nominal images that it has not learnt.
            groups: of both, as for `OnlineRanks`.
        """
        self._after_left_out, self._after_judged = OnlineRanks(left_out, groups[0]), OnlineRanks(judged, groups[1])

    def add(self, score: float, u: float) -> float:
        """The wealth after the next score; `u` as for `OnlineRanks`."""
        self._higher.bet(self._after_left_out.add(score, u))
        self._lower.bet(1 - self._after_judged.add(score, u))
        return (self._higher.wealth + self._lower.wealth) / 2

    @property
    def direction(self) -> str:
        """Who of the gamblers has more: `HIGHER` or `LOWER`."""
        return HIGHER if self._higher.wealth >= self._lower.wealth else LOWER


class StatisticsMartingale:
    """Two gamblers a statistic of the images, one on higher and one on lower values; together their wealth is 1 first.

    Args:
        calibration: name of a statistic -> its values in images that come first, in any order.
        groups: of these images, as for `OnlineRanks`.
    """

    def __init__(self, calibration: Mapping[str, Sequence[float]], groups: Sequence[int] = ()) -> None:
        self._ranks = {name: OnlineRanks(values, groups) for name, values in calibration.items()}
        self._gamblers = {(name, side): Gambler() for name in calibration for side in (HIGHER, LOWER)}

    def add(self, values: Mapping[str, float], u: Mapping[str, float]) -> float:
        """The wealth after the next image.

        Args:
            values: by the name of the statistic, finite.
            u: likewise; each as for `OnlineRanks`.
        """
        for name, ranks in self._ranks.items():
            p_value = ranks.add(values[name], u[name])
            self._gamblers[name, HIGHER].bet(p_value)
            self._gamblers[name, LOWER].bet(1 - p_value)
        return sum(gambler.wealth for gambler in self._gamblers.values()) / len(self._gamblers)

    @property
    def direction(self) -> tuple[str, str]:
        """Who of the gamblers has most: the statistic, and `HIGHER` or `LOWER`."""
        return max(self._gamblers, key=lambda name: self._gamblers[name].wealth)


def _odds(p_value: float) -> tuple[float, ...]:
    """What each bet pays, on average 1 over all p-values: no bet, a linear one, powers."""
    p = max(p_value, 1e-9)  # rounding must not give 0, on which a power would pay without bound
    return 1.0, 1.5 - p, *(power * p ** (power - 1) for power in POWERS)
