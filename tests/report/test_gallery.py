"""Which images are shown: worst false alarms, worst misses, typical hits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ad_assets.report.gallery import GalleryItem, choose_gallery


def test_worst_first():
    #         0    1    2    3    4    5    6    7    8    9
    scores = [0.1, 0.9, 0.7, 0.2, 0.3, 0.8, 0.6, 0.5, 0.1, 0.95]
    labels = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    chosen = choose_gallery(scores, labels, 0.5, misses=2, false_alarms=5, hits=1)
    assert chosen[:2] == [1, 2]  # 0.9 before 0.7; 0.2 is no alarm
    assert chosen[2:4] == [
        8,
        4,
    ]  # 0.1 and 0.3 are worse than 0.5, which is a miss too: not above the threshold
    assert chosen[4:] == [5]  # the middle one of 0.6, 0.8, 0.95


def test_ties_go_by_position_and_hits_spread_over_their_ranks():
    assert choose_gallery([0.7] * 4, [0, 0, 0, 0], 0.5, false_alarms=3) == [0, 1, 2]
    assert choose_gallery([0.3] * 4, [1, 1, 1, 1], 0.5, misses=2) == [0, 1]
    hits = np.arange(100) / 100 + 1
    assert choose_gallery(hits, np.ones(100, int), 0.5, hits=4) == [12, 37, 62, 87]
    assert choose_gallery(hits[:3], [1, 1, 1], 0.5, hits=9) == [0, 1, 2]
    assert choose_gallery([], [], 0.5) == []


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), max_size=40),
    st.integers(0, 6),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_chosen_by_a_slow_reading_of_the_rule(images, threshold, misses, false_alarms, hits):
    scores, labels = [s for s, _ in images], [label for _, label in images]
    chosen = choose_gallery(scores, labels, threshold, misses=misses, false_alarms=false_alarms, hits=hits)
    assert len(set(chosen)) == len(chosen)
    alarms = [i for i, (s, label) in enumerate(images) if label == 0 and s > threshold]
    missed = [i for i, (s, label) in enumerate(images) if label == 1 and s <= threshold]
    found = [i for i, (s, label) in enumerate(images) if label == 1 and s > threshold]
    a, m = min(false_alarms, len(alarms)), min(misses, len(missed))
    assert chosen[:a] == sorted(alarms, key=lambda i: (-scores[i], i))[:a]
    assert chosen[a : a + m] == sorted(missed, key=lambda i: (scores[i], i))[:m]
    rest = chosen[a + m :]
    assert len(rest) == min(hits, len(found))
    assert set(rest) <= set(found)
    assert [scores[i] for i in rest] == sorted(scores[i] for i in rest)


@pytest.mark.parametrize(
    ("scores", "labels", "threshold", "message"),
    [
        ([1.0, 2.0], [0], 0.5, r"not \(2,\) and \(1,\)"),
        ([1.0], [2], 0.5, "labels must be 0"),
        ([float("nan")], [0], 0.5, "NaN"),
        ([1.0], [0], float("nan"), "NaN"),
    ],
)
def test_bad_input_is_named(scores, labels, threshold, message):
    with pytest.raises(ValueError, match=message):
        choose_gallery(scores, labels, threshold)


@pytest.mark.parametrize(
    ("label", "score", "verdict"), [(0, 2, "false alarm"), (0, 1, "pass"), (1, 1, "miss"), (1, 2, "hit")]
)
def test_verdicts(label, score, verdict):
    assert GalleryItem("a.png", "good", label, score, 1.0, b"", b"").verdict == verdict
