"""The promised rate of false alarms, for every registered method: on images that are exchangeable it is kept.

Of each of many draws of nominal images some train and the others are decided on. Given the draw of the scores that set
the threshold, the false alarms among m images are binomial; over draws they are beta-binomial (Vovk 2012), whose sum
over all draws bounds what chance explains. `python -m tests.methods.test_false_alarms` prints the table.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import betabinom

from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import METHODS, Runtime
from ad_assets.methods.data import NominalScores
from ad_assets.methods.ensemble import fuse, fuse_nominal
from ad_assets.metrics.thresholds import nominal_quantile
from tests.support.tap_features import tap_features

RUNTIME = Runtime()
MAP_SIZE = (12, 12)
RATE, CHANCE = 0.1, 1e-3
TRAIN, TESTED = 30, 20
PATCHES = {"pooling": "concat", "sigma": 1.0}
TRAINED = {"epochs": 2, "held_out": 0.5, "sigma": 1.0}
# Each method as people run it: all patches, a coreset, proxies aside (nothing can be left out of them), all templates,
# sheets of them, a training with images held out.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "patchcore, all patches": ("patchcore", {"coreset_ratio": 1.0, **PATCHES}),
    "patchcore, 10 %": ("patchcore", {"coreset_ratio": 0.1, **PATCHES}),
    "patchcore, 2 %, reweighted": ("patchcore", {"coreset_ratio": 0.02, "image_score": "reweighted", **PATCHES}),
    "patchcore, random": ("patchcore", {"coreset_ratio": 0.1, "subsampling": "random", **PATCHES}),
    "patchcore, ivfpq": (
        "patchcore",
        {"coreset_ratio": 1.0, "search": "ivfpq", "lists": 2, "subquantisers": 2, "bits": 4, **PATCHES},
    ),
    "patchcluster": ("patchcluster", {"coreset_ratio": 0.25, "neighbours": 5, **PATCHES}),
    "patchcore_lof": ("patchcore_lof", {"neighbours": 10, **PATCHES}),
    "anomalydino": ("anomalydino", {"sigma": 1.0}),
    "superadd": ("superadd", {}),
    "hetmm, all": ("hetmm", {"windows": [3, 3], "image_sigma": 1.0}),
    "hetmm, 5 sheets": ("hetmm", {"windows": [3, 3], "image_sigma": 1.0, "sheets": 5}),
    "padim": ("padim", {"channels": 8, "sigma": 1.0}),
    "spade": ("spade", {"neighbours": 5, "sigma": 1.0}),
    "rad": ("rad", {"neighbours": 10, "sigma": 1.0}),
    "simplenet": ("simplenet", {"pooling": "concat", "hidden_units": 8, **TRAINED}),
    "fod": ("fod", {"widths": [8, 8], "heads": 2, "depth": 1, "epochs": 1, "held_out": 0.5}),
}


def nominal_taps(seed: int, images: int) -> list[torch.Tensor]:
    """Features that differ from place to place as a part does, with parts that vary in tone and in detail."""
    random = torch.Generator().manual_seed(seed)
    taps = []
    tone, detail = (torch.randn(images, 1, 1, 1, generator=random) for _ in range(2))
    for channels, side in ((6, 6), (8, 3)):
        place = torch.randn(1, channels, side, side, generator=random)
        look = torch.randn(1, channels, 1, 1, generator=random)
        noise = torch.randn(images, channels, side, side, generator=random)
        taps.append(3 * place + tone * look + noise * (0.3 * detail).exp())
    return taps


def scores_of(name: str, options: dict[str, Any], seed: int) -> tuple[NominalScores, torch.Tensor]:
    """Scores of nominal images for the threshold, and of others, by a method that learnt one draw of images."""
    everything = tap_features(nominal_taps(seed, TRAIN + TESTED))
    train = replace(everything, image_ids=everything.image_ids[:TRAIN])
    method = METHODS[name](**options)
    scorer = Scorer(method, method.fit(train, RUNTIME), train, None, MAP_SIZE, RUNTIME)
    others = scorer(replace(everything, image_ids=everything.image_ids[TRAIN:]), new=True)
    return scorer.nominal(train, TRAIN), torch.cat([scores.image_scores for _, scores in others])


def alarms_of(case: str, seed: int) -> tuple[int, int]:
    """False alarms among the tested images of one draw, and the number of scores that set the threshold."""
    if case == "ensemble":
        found = [scores_of(*CASES[member], seed) for member in ("patchcore, 10 %", "hetmm, all")]
        nominal = fuse_nominal([each for each, _ in found])
        maps = [torch.zeros(TESTED, 1, 1)] * 2
        scores = fuse(maps, [each for _, each in found], [torch.tensor(n.scores) for n, _ in found]).image_scores
    else:
        nominal, scores = scores_of(*CASES[case], seed)
    return int((scores > nominal_quantile(nominal.scores, RATE, nominal.groups)).sum()), len(nominal.scores)


def chance_of_as_many(alarms: int, n: int, draws: int) -> float:
    """The probability of at least so many false alarms, where the promise holds with equality."""
    above = n + 1 - math.ceil((n + 1) * (1 - RATE) - 1e-9)
    one = betabinom.pmf(np.arange(TESTED + 1), TESTED, above, n + 1 - above)
    total = np.array([1.0])
    for _ in range(draws):
        total = np.convolve(total, one)
    return float(total[alarms:].sum())


def test_every_method_is_tried() -> None:
    assert {name for name, _ in CASES.values()} == {
        name for name, method in METHODS.items() if method.__module__.startswith("ad_assets.")
    }


@pytest.mark.parametrize("case", [*CASES, "ensemble"])
def test_no_more_false_alarms_than_promised(case: str) -> None:
    draws = 3 if case in ("fod", "simplenet", "patchcore_lof") else 6  # these take longest
    found = [alarms_of(case, seed) for seed in range(draws)]
    assert chance_of_as_many(sum(alarms for alarms, _ in found), found[0][1], draws) > CHANCE


def test_scores_of_what_was_learnt_do_not_keep_the_promise() -> None:
    """What the test above would find: with training images that are not left out there are far too many alarms."""
    alarms = 0
    for seed in range(6):
        everything = tap_features(nominal_taps(seed, TRAIN + TESTED))
        train = replace(everything, image_ids=everything.image_ids[:TRAIN])
        method = METHODS["padim"](**CASES["padim"][1])
        scorer = Scorer(method, method.fit(train, RUNTIME), train, None, MAP_SIZE, RUNTIME)
        seen, new = (
            torch.cat([scores.image_scores for _, scores in scorer(replace(everything, image_ids=ids), new=True)])
            for ids in (train.image_ids, everything.image_ids[TRAIN:])
        )
        alarms += int((new > nominal_quantile(seen.numpy(), RATE, ())).sum())
    assert chance_of_as_many(alarms, TRAIN, 6) < 1e-9


if __name__ == "__main__":
    import sys

    count = int(sys.argv[1])
    print(f"| method | nominal scores | false alarms of {count * TESTED} | rate | chance of as many |")
    print("|---|---|---|---|---|")
    for each in [*CASES, "ensemble"]:
        results = [alarms_of(each, seed) for seed in range(count)]
        total = sum(alarms for alarms, _ in results)
        chance = chance_of_as_many(total, results[0][1], count)
        print(f"| {each} | {results[0][1]} | {total} | {total / count / TESTED:.1%} | {chance:.2g} |", flush=True)
