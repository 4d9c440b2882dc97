"""The gates that need no real anomaly, as a table: what a new state and the champion make of the same images."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ad_assets.production.nominal_gates import Judgement, Verdict, false_alarms, nothing_in_common, synthetic_anomalies

LEFT_OUT = [n / 100 for n in range(100)]  # 5 of 100 above the threshold
THRESHOLD = 0.945


def state(
    alarms: Sequence[int] = (), images: Sequence[int] = range(40), *, seen: Sequence[int] = (), drawn: int = 0
) -> Judgement:
    """A state that alarms on some of the numbered images, and sees some of the numbered synthetic anomalies."""
    return Judgement(
        THRESHOLD,
        {str(n): 1.0 if n in alarms else 0.5 for n in images},
        LEFT_OUT,
        {(str(n), "scar", 1): 1.0 if n in seen else 0.5 for n in range(drawn)},
    )


def raised(seen: Sequence[int]) -> Judgement:
    """A state that ranks all synthetic anomalies above the good images, and has some of them above its threshold."""
    drawn = {(str(n), "scar", 1): 1.0 if n in seen else 0.9 for n in range(100)}
    return Judgement(THRESHOLD, {str(n): 0.5 for n in range(40)}, LEFT_OUT, drawn)


def outcome(verdict: Verdict) -> tuple[bool, bool]:
    return verdict.passed, verdict.keeps_out


PASSES, WARNS, STAYS_OUT = (True, False), (False, False), (False, True)


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        (state(), state(), PASSES),
        (state([1, 2]), state([3]), PASSES),  # as promised: 2 of 40 at 5 %
        (state(range(12)), None, WARNS),  # the first one: there is none to keep
        (state(range(12)), state(range(12)), WARNS),  # the champion is no better
        (state(range(11)), state(range(12)), WARNS),
        (state(range(12)), state(range(10)), STAYS_OUT),  # breaks its promise, and more than the champion
        (state(range(5)), state(), STAYS_OUT),  # 5 more and none less: 1 in 32 by chance
        (state(range(4)), state(), PASSES),
        (state(range(5)), state([39]), PASSES),
        (state(range(12)), state([], range(100, 140)), STAYS_OUT),  # no image in common: its promise alone decides
        (state([], []), state(range(12)), PASSES),  # nothing to judge by
        (Judgement(None, {"1": 1.0}, []), state(), PASSES),  # no threshold
    ],
)
def test_false_alarms(new: Judgement, old: Judgement | None, expected: tuple[bool, bool]) -> None:
    assert outcome(false_alarms(new, old)) == expected


@pytest.mark.parametrize(
    ("families", "expected"),
    [
        ({}, WARNS),
        ({str(n): "lot" for n in range(12)}, PASSES),  # one of 29 groups
        ({str(n): "lot" for n in range(40)}, PASSES),  # 0.3 of one group
        ({str(n): f"lot {n // 2}" for n in range(12, 40)}, WARNS),  # 12 alarms of 26 groups: each alone
        ({str(n): f"lot {n // 2}" for n in range(40)}, WARNS),  # 6 of 20
    ],
)
def test_images_of_a_group_count_as_one(families: dict[str, str], expected: tuple[bool, bool]) -> None:
    assert outcome(false_alarms(state(range(12)), None, families)) == expected


def test_a_group_is_one_against_the_champion_and_among_left_out_scores_too() -> None:
    lot = {str(n): "lot" for n in range(5)}
    assert outcome(false_alarms(state(range(5)), state(), lot)) == PASSES
    assert outcome(false_alarms(state(range(5)), state(), {str(n): "lot" for n in range(5, 40)})) == STAYS_OUT
    told = false_alarms(state(range(5)), state(), lot).why
    assert "they are of 36 groups, of which each counts as one" in told
    # Of 100 left-out scores 5 are above; as two groups half of one is, so that three alarms of ten are no surprise.
    few = replace(state(range(4), range(10)), groups=[int(n >= 90) for n in range(100)])
    assert not few.breaks_promise()
    assert replace(few, groups=()).breaks_promise()


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        (state(seen=range(100), drawn=100), None, PASSES),
        (state(seen=range(10), drawn=100), None, PASSES),
        (state(seen=range(50), drawn=100), state(seen=range(60), drawn=100), STAYS_OUT),  # AUROC 0.75 after 0.8
        (raised(range(50)), raised(range(60)), WARNS),  # fewer above the threshold, told apart as well as before
        (raised(range(29)), raised(range(60)), STAYS_OUT),  # less than half
        (state(seen=range(58), drawn=100), state(seen=range(60), drawn=100), PASSES),  # within the margin
        (state(seen=range(4, 60), drawn=100), state(seen=range(60), drawn=100), PASSES),  # 4 lost: chance
        (state(seen=range(30, 90), drawn=100), state(seen=range(60), drawn=100), PASSES),  # others, as many
        (state(seen=range(10), drawn=100), state(), PASSES),  # an older champion, without such scores
        (state(), state(seen=range(60), drawn=100), PASSES),
    ],
)
def test_synthetic_anomalies(new: Judgement, old: Judgement | None, expected: tuple[bool, bool]) -> None:
    assert outcome(synthetic_anomalies(new, old, 0.02)) == expected


@pytest.mark.parametrize(
    ("new", "old", "same", "compared", "expected"),
    [
        (state([], []), state([], []), False, False, STAYS_OUT),
        (state(), None, False, False, STAYS_OUT),  # the champion's scores are gone
        (state([], []), state([], []), True, False, PASSES),  # an update by new images
        (state([], []), state([], []), False, True, PASSES),  # a metric compares them
        (state(), state(), False, False, PASSES),  # images compare them
    ],
)
def test_nothing_in_common(
    new: Judgement, old: Judgement | None, same: bool, compared: bool, expected: tuple[bool, bool]
) -> None:
    assert outcome(nothing_in_common(new, old, same_settings=same, compared=compared)) == expected


def test_the_numbers_that_a_history_keeps() -> None:
    numbers = state([1], seen=range(30), drawn=40).numbers()
    assert numbers["judging_images"] == 40
    assert numbers["false_alarm_rate"] == 1 / 40
    assert 0 < numbers["false_alarm_rate_low"] < 1 / 40 < numbers["false_alarm_rate_high"] < 0.15
    assert numbers["left_out_above"] == 0.05
    assert numbers["synthetic_anomalies_seen"] == numbers["synthetic_scar_seen"] == 0.75
    assert 0.5 < numbers["synthetic_scar_auroc"] < 1
    assert all(name.startswith("synthetic_") for name in numbers if "auroc" in name)
    assert Judgement(None, {}, []).numbers() == {}
