"""How many alarms among good images are too many: exact bounds and tests of counts, without a normal approximation."""

from __future__ import annotations

from collections.abc import Sequence


def rate_bounds(alarms: int, images: int, certainty: float = 0.95) -> tuple[float, float]:
    """A two-sided interval of Clopper and Pearson (1934) for a rate of alarms, which covers in at least so many cases.

    >>> [round(bound, 3) for bound in rate_bounds(3, 15)]
    [0.043, 0.481]

    Raises:
        ValueError: no images, or more alarms than images.
    """
    _check(alarms, images)
    from scipy.special import betaincinv

    tail = (1 - certainty) / 2
    low = float(betaincinv(alarms, images - alarms + 1, tail)) if alarms else 0.0
    high = float(betaincinv(alarms + 1, images - alarms, 1 - tail)) if alarms < images else 1.0
    return low, high


def most_without_an_alarm(images: int, certainty: float = 0.95) -> float:
    """The rate of alarms that so many images without a single alarm rule out: 1 - (1 - certainty)^(1 / images).

    >>> [round(100 * most_without_an_alarm(images), 1) for images in (15, 60, 300)]
    [18.1, 4.9, 1.0]

    Raises:
        ValueError: no images.
    """
    _check(0, images)
    return float(1 - (1 - certainty) ** (1 / images))


def chance_of_alarms(alarms: int, images: int, above: float, scores: int) -> float:
    """The probability of so many alarms or more if the images are like those that the threshold comes from.

    The threshold is one of the ordered scores of nominal images. Of new ones, exchangeable with them, the number above
    it has a beta-binomial (negative hypergeometric) law, whatever the distribution of the scores: with few scores a
    threshold keeps its rate on average only, and the law takes that into account.

    >>> round(chance_of_alarms(3, 15, above=2, scores=48), 3)
    0.083

    Args:
        alarms: among the images, above the threshold.
        images: new nominal images.
        above: of the scores, those above the threshold; no whole number where scores are shares of groups.
        scores: that the threshold comes from.

    Raises:
        ValueError: no images or scores, or more alarms than images.
    """
    _check(alarms, images)
    _check(above, scores)
    if not alarms:
        return 1.0
    from scipy.stats import betabinom  # takes a second to import, so only where there are alarms

    return float(betabinom.sf(alarms - 1, images, above + 1, max(scores - above, 1)))


def chance_of_more(first: Sequence[bool], second: Sequence[bool]) -> float:
    """The probability that the second has so many more alarms than the first on the same images by chance alone.

    One-sided exact test on the images on which the two differ (McNemar 1947): each is as likely to be an alarm of the
    one as of the other.

    >>> chance_of_more([False] * 12, [True] * 5 + [False] * 7)
    0.03125
    """
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    from scipy.special import bdtrc

    return float(bdtrc(only_second - 1, only_first + only_second, 0.5))


def _check(alarms: float, images: int) -> None:
    if images < 1 or not 0 <= alarms <= images:
        raise ValueError(f"{alarms} of {images}: there must be images, and not more of them than there are")
