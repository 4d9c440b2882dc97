"""What every training promises: the seed alone decides the weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from ad_assets.kernels.parallel import threads as current_threads
from ad_assets.kernels.parallel import use_threads
from ad_assets.methods import Features, Runtime
from ad_assets.methods.training.base import TrainedMethod

RUNTIME = Runtime(memory_gb=1)


def assert_only_the_seed_counts(method: TrainedMethod, images: Features, scarce_gb: float, drawn: str) -> None:
    """Train with another budget, loading and number of threads, and with another seed.

    Args:
        method: what trains.
        images: what it trains on.
        scarce_gb: a budget that keeps hardly any image.
        drawn: one of the weights that are drawn with the seed.
    """
    threads = current_threads()
    expected = method.fit(images, RUNTIME)
    try:
        use_threads(1)
        other = method.fit(replace(images, batch_size=7), Runtime(memory_gb=scarce_gb))
    finally:
        use_threads(threads)
    assert all(torch.equal(tensor, other.weights[name]) for name, tensor in expected.weights.items())
    assert expected.losses == other.losses
    reseeded = method.model_copy(update={"seed": 1}).fit(images, RUNTIME)
    assert not torch.equal(reseeded.weights[drawn], expected.weights[drawn])
