"""Which images a variant of a study trains on, and which anomalous ones that takes out of the test: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingSubset:
    """The images of one measurement.

    Args:
        train: image ids, sorted.
        withheld: anomalous images that are not tested, because one of the variants may train on them.
    """

    train: tuple[str, ...]
    withheld: frozenset[str] = frozenset()


def random_subset(nominal: Sequence[str], wanted: int, seed: int) -> TrainingSubset:
    """As many nominal images as wanted, at random.

    Raises:
        ValueError: there are fewer.
    """
    import numpy as np

    if wanted > len(nominal):
        raise ValueError(f"{wanted} training images are asked for, there are {len(nominal)}")
    chosen = np.random.default_rng([seed, wanted]).choice(len(nominal), wanted, replace=False)
    return TrainingSubset(tuple(sorted(nominal[i] for i in chosen)))


def contaminated_subset(
    nominal: Sequence[str], anomalous: Sequence[str], share: float, most: float, seed: int
) -> TrainingSubset:
    """Nominal training images polluted with anomalous ones of the test split.

    Half of the anomalous images, drawn at random, may train and are never tested; so all shares up to `most` are tested
    on the same images, and have the same nominal ones in common: all, or as many as half of the anomalous images can
    pollute to the largest share.

    Args:
        nominal: training images.
        anomalous: anomalous test images.
        share: part of the training images that is anomalous, 0..most.
        most: the largest share of all variants.
        seed: of both draws.

    Raises:
        ValueError: too few images for the largest share.
    """
    import numpy as np

    generator = np.random.default_rng([seed, 0])
    shuffled = [anomalous[i] for i in generator.permutation(len(anomalous))]
    pool = shuffled[: len(anomalous) // 2]
    count = len(nominal) if most == 0 else min(len(nominal), int(len(pool) * (1 - most) / most))
    if count < 1 or not pool:
        raise ValueError(
            f"{len(pool)} anomalous images can pollute the training images, half of the {len(anomalous)} that are "
            f"tested: too few for a contamination of {most:g}"
        )
    kept = [nominal[i] for i in generator.permutation(len(nominal))[:count]]
    return TrainingSubset(tuple(sorted([*kept, *pool[: round(count * share / (1 - share))]])), frozenset(pool))
