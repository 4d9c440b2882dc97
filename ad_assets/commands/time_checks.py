"""Tells before a run how long it will take: a few images pass everything, and counts of operations say what more do.

Features are timed on real images of a dataset, and each lane on these features: it learns them, and scores as many.
`Method.operations` says how much more all images are. Index, metrics, pictures and tables are not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ad_assets.backbones.backbone import load_backbone
from ad_assets.config.benchmark import Benchmark, Dataset, Detector, fingerprint
from ad_assets.datasets import ImageFiles
from ad_assets.methods import Features, Method, Runtime
from ad_assets.methods.operations import Operations

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.datasets.base import Candidate

TIMED = 8  # images that all is timed with
SURE = "half to twice that: the machine is as busy as just now, and few images stand for many"

Assigned = Mapping[str, "Sequence[Candidate]"]  # category -> its images


@dataclass(frozen=True)
class Counts:
    """Images of a category: nominal ones, test images, and nominal ones that are scored for the threshold."""

    train: int
    test: int
    left_out: int = 0

    @property
    def images(self) -> int:
        """That pass the backbone."""
        return self.train + self.test

    @property
    def scored(self) -> int:
        """That a lane scores."""
        return self.test + self.left_out


@dataclass(frozen=True)
class Pace:
    """How fast this machine is with a lane.

    Args:
        operations: of what was timed.
        fit: seconds that it took to learn the images.
        score: seconds that it took to score one.
    """

    operations: Operations
    fit: float
    score: float

    def seconds(self, method: Method[Any], taps: list[Tensor], counts: Counts) -> tuple[float, float]:
        """Of a category from nothing: to learn, and to score; `taps` of one image, for their shapes."""
        own = method.operations(taps, counts.train)
        fit, score = own.fit / self.operations.fit, own.score / self.operations.score
        return fit * self.fit, counts.scored * score * self.score


def time_checks(benchmark: Benchmark, name: str) -> Iterator[tuple[str, bool, str]]:
    """How long features and each lane of a dataset take from nothing, and the dataset as a whole.

    Yields:
        What was looked at, True, and what is known of it.
    """
    dataset = benchmark.datasets[name]
    try:
        assigned = dataset.reader.assign(sorted(ImageFiles(dataset.reader.root).listing()))
        counts = _counts(assigned)
        timed = {each: _features(benchmark, dataset, each, assigned) for each in dataset.extractors} if counts else {}
    except (OSError, ValueError, RuntimeError, KeyError) as error:  # findings of data and extractors say what is wrong
        yield f"time of {name}", True, f"not known: {error}"
        return
    if not timed:
        return
    images = sum(each.images for each in counts.values())
    whole = 0.0
    for extractor, (_, seconds) in timed.items():
        whole += seconds * images
        said = f"{words(seconds * images)} for {images} images, {1000 * seconds:.0f} ms each"
        yield f"time of {name}/features/{extractor}", True, said
    lanes: dict[str, tuple[float, float] | None] = {}
    states: dict[str, float] = {}  # lanes with the same settings of the fit share a state
    for detector in dataset.detectors.values():
        if detector.method is None or detector.joins:
            continue
        if detector.draw_of in lanes:
            lanes[detector.name] = lanes[detector.draw_of]
        else:
            taps = timed[detector.extractor][0]
            lanes[detector.name], said = _lane(benchmark, dataset, detector, taps, counts)
            yield f"time of {name}/{detector.name}", True, said
        fit, score = lanes[detector.name] or (0.0, 0.0)
        state = fingerprint([detector.extractor, detector.method.stage_config("fit")])
        states[state] = max(fit, states.get(state, 0.0))
        whole += score
    whole += sum(states.values())
    unknown = [lane for lane, each in lanes.items() if each is None]
    without = f", without {', '.join(unknown)}" if unknown else ""
    yield f"time of {name}", True, f"about {words(whole)} from nothing{without}; {SURE}"


def _lane(
    benchmark: Benchmark, dataset: Dataset, detector: Detector, taps: Sequence[Tensor], counts: Mapping[str, Counts]
) -> tuple[tuple[float, float] | None, str]:
    """Seconds of a lane in all categories, to learn and to score, and in words; None: not known."""
    from ad_assets.graph.stages.score_maps import calibration_images

    method = detector.method_for("")
    layers = [layer - 1 for layer in method.layers] if method.layers else range(len(taps))
    own = [taps[layer] for layer in layers]
    sample, fit, score = [tap[:1] for tap in own], 0.0, 0.0
    try:
        pace = measured(method, own, benchmark)
        for category, count in counts.items():
            each = detector.method_for(category)
            most = calibration_images(dataset, detector, category, benchmark.evaluation)
            scored = min(each.calibration_images(count.train), most)
            learnt, found = pace.seconds(each, sample, Counts(count.train, count.test, scored))
            fit, score = fit + learnt, score + found
    except (NotImplementedError, OSError, ValueError, RuntimeError) as error:
        return None, f"not known: {error}"
    said = f"about {words(fit)} to learn and {words(score)} to score all categories from nothing"
    return (fit, score), said


def measured(method: Method[Any], taps: Sequence[Tensor], benchmark: Benchmark) -> Pace:
    """The pace of a lane on this machine.

    Args:
        method: of the lane.
        taps: features of some images, as the method reads them.
        benchmark: device and budgets.

    Raises:
        NotImplementedError: what its time grows with is not known.
        ValueError: it cannot learn so few images.
    """
    from ad_assets.graph.stages.fitted_state import runtime_on

    images = len(taps[0])
    small = method.in_small(images)
    operations = small.operations([tap[:1] for tap in taps], images)
    runtime = runtime_on(benchmark.compute, lambda *_: None)
    _timed(small, taps, images, runtime)  # loads libraries, compiles
    return Pace(operations, *_timed(small, taps, images, runtime))


def _timed(method: Method[Any], taps: Sequence[Tensor], images: int, runtime: Runtime) -> tuple[float, float]:
    """Seconds of a fit of the first images, and of scoring one."""
    from ad_assets.graph.stages.scorer import Scorer

    def features(prefix: str) -> Features:
        ids = tuple(f"{prefix}{number}" for number in range(images))
        place = {image_id: number for number, image_id in enumerate(ids)}

        def load(some: Sequence[str], layers: tuple[int, ...] | None) -> list[Tensor]:
            read = range(len(taps)) if layers is None else layers
            return [taps[layer][[place[each] for each in some]] for layer in read]

        return Features(ids, load)

    train, size = features("a"), (8 * taps[0].shape[2], 8 * taps[0].shape[3])
    alone = method.model_copy(update={"layers": None})
    scorers: list[Scorer] = []
    fit = seconds_of(lambda: scorers.append(Scorer(alone, alone.fit(train, runtime), train, None, size, runtime)))
    score = seconds_of(lambda: [None for _ in scorers[0](features("b"), new=True)])
    return fit, score / images


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of the clock that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _features(benchmark: Benchmark, dataset: Dataset, extractor: str, assigned: Assigned) -> tuple[list[Tensor], float]:
    """Taps of some training images of the largest category, (B, C, h, w) float32, and the seconds of one image."""
    reader = dataset.reader
    files, backbone = ImageFiles(reader.root), load_backbone(benchmark.extractors[extractor], benchmark.compute)
    paths = max(([c.path for c in own if c.split == "train"] for own in assigned.values()), key=len)
    chosen = paths[:: max(1, len(paths) // TIMED)][:TIMED]

    def images() -> Tensor:
        return backbone.stack([backbone.preprocess(reader.decoding.rgb(files.read(path), path)) for path in chosen])

    backbone.extract(images())
    taps: list[list[Tensor]] = []
    seconds = seconds_of(lambda: taps.append(backbone.extract(images())))
    return [tap.float() for tap in taps[0]], seconds / len(chosen)


def _counts(assigned: Assigned) -> dict[str, Counts]:
    """Category -> its images in the folder; without categories that have no nominal ones."""
    split = {category: [each.split for each in own] for category, own in assigned.items()}
    return {
        name: Counts(own.count("train"), own.count("test")) for name, own in sorted(split.items()) if "train" in own
    }


def words(seconds: float) -> str:
    """A time for people.

    >>> words(0.4), words(49), words(400), words(9000), words(400_000)
    ('1 second', '49 seconds', '7 minutes', '2.5 hours', '4.6 days')
    """
    if seconds < 100:
        count = max(1, round(seconds))
        return f"{count} second{'s' if count > 1 else ''}"
    for size, most, digits, name in ((60, 100, 0, "minutes"), (3600, 72, 1, "hours")):
        if seconds < most * size:
            return f"{seconds / size:.{digits}f} {name}"
    return f"{seconds / 86_400:.1f} days"
