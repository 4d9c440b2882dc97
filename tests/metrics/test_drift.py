"""The drift test keeps its error rate, speaks within few images, and its p-values are those of plain counting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from ad_assets.metrics.drift import HIGHER, LOWER, DriftMartingale, Gambler, OnlineRanks, StatisticsMartingale, _odds
from ad_assets_runtime.conformal import p_values

LIMIT = 1 / 0.05


def alarm(calibration: np.ndarray, stream: np.ndarray, seed: int) -> tuple[int, str]:
    """After how many images of a stream the wealth reaches the limit, 0: never; and the direction then."""
    martingale = DriftMartingale()
    martingale.calibrate(list(calibration), list(calibration[: len(calibration) // 4]))
    random = np.random.default_rng(seed)
    for number, score in enumerate(stream, start=1):
        if martingale.add(float(score), random.uniform()) >= LIMIT:
            return number, martingale.direction
    return 0, ""


@pytest.mark.parametrize("decimals", [1, 6])
def test_p_values_are_those_of_plain_counting(decimals: int) -> None:
    random = np.random.default_rng(decimals)
    scores = np.round(random.normal(size=120), decimals)  # with many ties, and with none
    ranks = OnlineRanks(list(scores[:20]))
    for position in range(20, 120):
        u, before = random.uniform(), scores[:position]
        higher = sum(score > scores[position] for score in before)
        equal = 1 + sum(score == scores[position] for score in before)
        assert ranks.add(scores[position], u) == pytest.approx((higher + u * equal) / (position + 1))


def test_a_group_of_calibration_scores_counts_as_one_as_it_does_for_the_threshold() -> None:
    random = np.random.default_rng(9)
    scores, groups = np.round(random.normal(size=40), 1), random.integers(0, 7, 40).tolist()
    for score in (-5.0, *scores[:9], 5.0):
        expected = p_values([score], scores, groups)[0]
        assert OnlineRanks(list(scores), groups).add(float(score), 1.0) == pytest.approx(expected)


def test_near_copies_among_the_calibration_scores_make_no_false_drift() -> None:
    """Eight parts, eight frames of each, all alike: as 64 images they say how narrow the line is, and it is not."""
    random = np.random.default_rng(10)
    alarms = {True: 0, False: 0}
    for _ in range(100):
        parts, groups = random.normal(size=8), np.repeat(range(8), 8).tolist()
        frames, stream = np.repeat(parts, 8) + random.normal(0, 0.1, 64), random.normal(size=150)
        uniform = random.uniform(size=150)
        for by_group in alarms:
            martingale = DriftMartingale()
            martingale.calibrate(list(frames), (), (groups if by_group else (), ()))
            alarms[by_group] += max(map(martingale.add, stream.tolist(), uniform.tolist())) >= LIMIT
    assert alarms[True] <= 5 < 10 < alarms[False]


def test_no_bet_gains_on_average() -> None:
    for bet in range(len(_odds(0.5))):
        lower, _ = quad(lambda p, bet=bet: _odds(p)[bet], 0, 0.5)
        upper, _ = quad(lambda p, bet=bet: _odds(1 - p)[bet], 0, 0.5)
        assert lower + upper == pytest.approx(1, abs=0.002)


def test_it_is_quiet_on_exchangeable_scores() -> None:
    random = np.random.default_rng(5)
    scores = random.gamma(2, size=400)  # skewed, as scores are
    alarms = 0
    for seed in range(200):
        shuffled = random.permutation(scores)
        alarms += alarm(shuffled[:60], shuffled[60:], seed)[0] > 0
    assert alarms <= 10


def test_left_out_scores_that_are_too_high_make_no_line_seem_better() -> None:
    """A memory bank without an image has no rows of it: its left-out score is higher than a new image's."""
    random = np.random.default_rng(8)
    alarms = 0
    for seed in range(100):
        martingale = DriftMartingale()
        martingale.calibrate(list(random.normal(size=60) + 0.5), list(random.normal(size=12)))
        uniform = np.random.default_rng(seed)
        alarms += max(martingale.add(float(score), uniform.uniform()) for score in random.normal(size=200)) >= LIMIT
    assert alarms <= 5


def test_a_fixed_calibration_set_would_not_be_valid() -> None:
    """Ranked among the calibration scores alone, p-values share the luck of that set, and wealth grows for ever."""
    random = np.random.default_rng(6)
    alarms = 0
    for _ in range(60):
        calibration, gambler = np.sort(random.normal(size=20)), Gambler()
        for score in random.normal(size=400):
            higher = 20 - np.searchsorted(calibration, score, side="right")
            gambler.bet((higher + random.uniform()) / 21)
            if gambler.wealth >= LIMIT:
                alarms += 1
                break
    assert alarms > 15  # of 60, where at most 3 are promised


@pytest.mark.parametrize(("shift", "within", "direction"), [(3, 12, HIGHER), (1.5, 40, HIGHER), (-3, 16, LOWER)])
def test_it_speaks_soon_and_tells_the_direction(shift: float, within: int, direction: str) -> None:
    random = np.random.default_rng(7)
    found = [
        alarm(random.normal(size=60), np.concatenate([random.normal(size=30), random.normal(size=60) + shift]), seed)
        for seed in range(40)
    ]
    delays = sorted(number - 30 if number else 1000 for number, _ in found)
    assert delays[35] <= within  # nine in ten
    assert [told for number, told in found if number > 30].count(direction) >= 35


def test_a_drift_that_goes_on_for_ever_does_not_overflow() -> None:
    martingale = DriftMartingale()
    assert 1e6 < max(martingale.add(float(score), 0.5) for score in range(3000)) < np.inf


def alarm_on_images(learnt: np.ndarray, stream: np.ndarray, random: np.random.Generator) -> tuple[int, str]:
    """As `alarm`, for brightness and contrast ``(n, 2)``; the direction in words."""
    names = ("brightness", "contrast")
    martingale = StatisticsMartingale({name: list(learnt[:, column]) for column, name in enumerate(names)})
    for number, values in enumerate(stream, start=1):
        u = dict(zip(names, random.uniform(size=2), strict=True))
        if martingale.add(dict(zip(names, values, strict=True)), u) >= LIMIT:
            return number, " ".join(martingale.direction)
    return 0, ""


def images(count: int, random: np.random.Generator) -> np.ndarray:
    """Brightness and contrast of images, which go together as they do under one lamp."""
    brightness = random.normal(100, 10, size=count)
    return np.stack([brightness, 0.3 * brightness + random.normal(0, 3, size=count)], axis=1)


def test_statistics_of_exchangeable_images_are_quiet() -> None:
    random = np.random.default_rng(3)
    assert sum(alarm_on_images(images(60, random), images(300, random), random)[0] > 0 for _ in range(200)) <= 10


@pytest.mark.parametrize(
    ("factor", "said"), [(0.5, "brightness lower"), (1.5, "brightness higher"), (1, "contrast higher")]
)
def test_light_that_fades_or_grows_slowly_is_told_and_so_is_contrast_alone(factor: float, said: str) -> None:
    random = np.random.default_rng(4)
    found = []
    for _ in range(20):
        ramp = np.linspace(1, factor, 100)[:, None] * images(100, random)
        if factor == 1:
            ramp[:, 1] *= np.linspace(1, 2, 100)
        found.append(alarm_on_images(images(60, random), np.concatenate([images(30, random), ramp]), random))
    assert all(30 < number <= 100 for number, _ in found)
    assert [told for _, told in found].count(said) >= 15
