"""Before a run `doctor` says how long it will take, by a few images that pass everything and by counts of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from ad_assets.commands import time_checks
from ad_assets.commands.time_checks import Counts, Pace
from ad_assets.methods import METHODS
from ad_assets.methods.memory_bank.patchcore import PatchCore
from tests.support.bench_graph import Bench, draw_image, write_image


def told(bench: Bench) -> dict[str, str]:
    return {subject: message for subject, healthy, message in time_checks.time_checks(bench.benchmark, "parts")}


def numbers(message: str) -> list[float]:
    """The times of a sentence, in seconds."""
    units = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
    return [float(count) * units[unit] for count, unit in re.findall(r"([\d.]+) (second|minute|hour|day)", message)]


def taps(side: int) -> list[torch.Tensor]:
    return [torch.zeros(1, 12, side, side), torch.zeros(1, 20, side // 2, side // 2)]


def seconds(method: PatchCore, side: int, counts: Counts) -> float:
    """Where 8 images of 8 x 8 places took a coreset of 1 % 2 s to fit, and an image 0.1 s to be scored."""
    timed = PatchCore(pooling="concat", coreset_ratio=0.01).operations(taps(8), 8)
    return sum(Pace(timed, 2.0, 0.1).seconds(method, taps(side), counts))


def test_time_grows_with_images_coreset_and_input() -> None:
    one, ten, every = (PatchCore(pooling="concat", coreset_ratio=ratio) for ratio in (0.01, 0.1, 1))
    assert seconds(one, 8, Counts(8, 0)) == pytest.approx(2.0)
    assert seconds(one, 8, Counts(8, 30, 10)) == pytest.approx(2.0 + 40 * 0.1)
    # All patches: learnt as fast as they are read, and compared with all.
    fits = [seconds(every, 8, Counts(images, 0)) for images in (100, 200)]
    assert fits[1] == pytest.approx(2 * fits[0])
    # A coreset: each pick is compared with all patches, so that the time of many is that of their square.
    fits = [seconds(one, 8, Counts(images, 0)) for images in (10**6, 2 * 10**6)]
    assert fits[1] == pytest.approx(4 * fits[0], rel=0.01)
    scores = [seconds(each, 8, Counts(1000, 1000)) - seconds(each, 8, Counts(1000, 0)) for each in (one, ten, every)]
    assert scores[0] < scores[1] < scores[2]
    assert seconds(ten, 8, Counts(1000, 0)) > 2 * seconds(one, 8, Counts(1000, 0))
    # Twice the sides are four times the patches.
    assert seconds(every, 16, Counts(100, 0)) == pytest.approx(4 * seconds(every, 8, Counts(100, 0)))
    assert seconds(one, 16, Counts(10, 10)) > 4 * seconds(one, 8, Counts(10, 10))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_says_what_its_time_grows_with(name: str) -> None:
    method = METHODS[name](**({"max_rows": None} if name == "superadd" else {}))
    few, more = (method.operations(taps(8), images) for images in (100, 1000))
    assert 0 < few.fit < more.fit
    assert 0 < few.score <= more.score
    small = method.in_small(8).operations(taps(8), 8)
    assert 0 < small.fit < few.fit
    assert small.score <= few.score


def test_doctor_says_how_long_each_lane_takes_and_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def took(call: Callable[[], object]) -> float:
        call()
        return 6.0

    monkeypatch.setattr(time_checks, "seconds_of", took)
    before = told(bench)
    # Two categories of 12 images, 6 of them nominal; each lane learnt 6 in 6 s, and scored an image in 1 s.
    assert before["time of parts/features/lite0"] == "24 seconds for 24 images, 1000 ms each"
    lane = "about 12 seconds to learn and 24 seconds to score all categories from nothing"
    assert before["time of parts/small"] == before["time of parts/full"] == lane
    assert before["time of parts"].startswith("about 96 seconds from nothing; half to twice that")
    for number in range(40):
        write_image(bench.images / f"bolt/train/good/n{number}.png", draw_image(3000 + number))
    detectors = bench.tree["datasets"]["parts"]["detectors"]
    detectors["same"] = {**detectors["small"], "sigma": 2.0}  # with the state of another lane
    detectors["coded"] = {**detectors["full"], "search": "ivfpq"}
    bench.reload()
    after = told(bench)  # eight images in 6 s
    assert after["time of parts/features/lite0"].startswith("48 seconds for 64 images, 750 ms each")
    assert numbers(after["time of parts/small"])[0] > 3 * numbers(lane)[0]
    assert after["time of parts/coded"].startswith("not known: to learn product codes takes")
    assert after["time of parts/same"] == after["time of parts/small"]
    assert "from nothing, without coded;" in after["time of parts"]
    twice = 2 * numbers(after["time of parts/small"])[1] + sum(numbers(after["time of parts/full"]))
    whole = 48 + twice + numbers(after["time of parts/small"])[0]
    assert numbers(after["time of parts"])[0] == pytest.approx(whole, rel=0.1)  # full minutes
