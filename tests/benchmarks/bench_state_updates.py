"""Five percent more nominal images: updating what 300 have taught against fitting all 315 again.

Run: ``python -m tests.benchmarks.bench_state_updates``. Features have the shapes of EfficientNet-Lite0's at reductions
8 and 16. Prints seconds, their ratio, and how the updated state scores other images beside the fitted one. PaDiM, SPADE
and banks of all patches must score alike; a coreset keeps its rows, and its difference is shown.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch

from ad_assets.methods import METHODS, Batch, Features, Method, Runtime
from tests.benchmarks.measure import interleaved, report
from tests.support.tap_features import tap_features

IMAGES, NEW, TEST = 300, 15, 8
GROWTH = (1, 15, 75, 150)
TAPS = ((40, 28), (112, 14))
MAP_SIZE = (224, 224)
RUNTIME = Runtime(memory_gb=2)
METHODS_TIMED: dict[str, dict[str, Any]] = {
    "padim": {},
    "spade": {},
    "patchcluster 100 %": {"pooling": "concat", "coreset_ratio": 1.0},
    "patchcluster 10 %": {"pooling": "concat", "coreset_ratio": 0.1},
}


def images(seed: int, count: int) -> list[torch.Tensor]:
    """Taps of products that differ a little from one another: a place looks alike in all of them."""
    scene = torch.Generator().manual_seed(0)
    generator = torch.Generator().manual_seed(seed)
    taps = []
    for channels, side in TAPS:
        mean = torch.rand(1, channels, side, side, generator=scene) * 3
        taps.append((mean + 0.5 * torch.randn(count, channels, side, side, generator=generator)).relu())
    return taps


def part(features: Features, first: int, last: int) -> Features:
    """Some of the images, in the canonical order of ids."""
    return dataclasses.replace(features, image_ids=tuple(sorted(features.image_ids[first:last])))


def maps(method: Method[Any], state: Any, train: Features, taps: list[torch.Tensor]) -> torch.Tensor:
    """Score maps of other images."""
    return method.score(method.prepare(state, train, RUNTIME), Batch(taps, MAP_SIZE), RUNTIME).maps


def _proportion(taps: list[torch.Tensor]) -> None:
    """What updates of several sizes cost PaDiM: a constant, for the covariances themselves, and so much an image."""
    features, method = tap_features(taps, batch_size=16), METHODS["padim"]()
    fitted = method.fit(part(features, 0, IMAGES), RUNTIME)
    seconds = []
    for count in GROWTH:
        new = part(features, IMAGES, IMAGES + count)
        seconds.append(min(timed(lambda new=new: method.update(fitted, new, RUNTIME)) for _ in range(5)))
    slope = (seconds[-1] - seconds[0]) / (GROWTH[-1] - GROWTH[0])
    told = ", ".join(f"{second:.3f} s for {count}" for count, second in zip(GROWTH, seconds, strict=True))
    print(f"padim, new images: {told}; {1000 * slope:.2f} ms an image")


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    """Measure, print, and fail where an update should equal a fit and does not, or costs as much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    everything = tap_features(images(1, IMAGES + NEW), batch_size=16)
    old, new = part(everything, 0, IMAGES), part(everything, IMAGES, IMAGES + NEW)
    everything = part(everything, 0, IMAGES + NEW)
    test = images(2, TEST)
    for name, options in METHODS_TIMED.items():
        method = METHODS[name.split()[0]](**options)
        fitted = method.fit(old, RUNTIME)
        updated, scratch = method.update(fitted, new, RUNTIME), method.fit(everything, RUNTIME)
        one, other = (maps(method, state, everything, test) for state in (updated, scratch))
        difference = float((one - other).abs().max() / other.abs().max())
        timing = interleaved(
            lambda m=method, s=fitted: m.update(s, new, RUNTIME), lambda m=method: m.fit(everything, RUNTIME), repeats
        )
        extra = ""
        if hasattr(updated, "covering_radius") and options["coreset_ratio"] < 1:
            extra = f", covering radius at most {updated.covering_radius:.4g} against {scratch.covering_radius:.4g}"
        report(f"{name}, +{NEW} of {IMAGES}", timing, f"largest difference of maps {difference:.1e}{extra}")
        assert difference < 1e-5 or extra
        assert timing.ratio > 1
    _proportion(images(3, IMAGES + max(GROWTH)))


if __name__ == "__main__":
    main()
