"""Drift and bisection on photographs of magnetic tiles: what is told as drift and what is not, a poisoned batch."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ad_assets.backbones import backbone
from ad_assets.backbones.backbone import Backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import METHODS, Features, Runtime
from ad_assets.prediction.bisection import bisect_landings
from ad_assets.prediction.drift_tests import BRIGHTNESS, CONTRAST, IMAGE_STATISTICS, Champion, drift_tests
from ad_assets.production.inspections import Inspection
from ad_assets_runtime.appearance import appearance_of
from tests.prediction.test_bisection import made
from tests.support.bench_graph import Bench
from tests.support.places import MAGNETIC_TILES

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not (MAGNETIC_TILES / "MT_Free").is_dir(), reason=f"no Magnetic Tile Defects in {MAGNETIC_TILES}"
    ),
]

SIDE = 160
ALPHA = 0.05
LEARNT, JUDGED, USUAL = 60, 12, 30
RAMP = 200
RUNTIME = Runtime()
START = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)


class Pictures:
    """Features and appearance of pictures, each extracted once."""

    def __init__(self) -> None:
        size = (SIDE, SIDE)
        taps = ("blocks.2", "blocks.4")
        self._backbone = Backbone.load(
            Extractor(backbone="tf_efficientnet_lite0", weights="bundled", taps=taps, resize=size)
        )
        self._taps: dict[str, list[Tensor]] = {}
        self.looks: dict[str, tuple[float, float]] = {}

    def add(self, path: Path, light: float = 1.0) -> str:
        """The name of a photograph under another light, which saturates as a camera does."""
        name = f"{path} {light:.4f}"
        if name not in self._taps:
            rgb = np.asarray(Image.open(path).convert("RGB"))
            rgb = np.clip(np.round(rgb * light), 0, 255).astype(np.uint8)
            looks = appearance_of(rgb)
            self.looks[name] = looks.brightness, looks.contrast
            self._taps[name] = [tap[0] for tap in self._backbone.extract(self._backbone.preprocess(rgb)[None])]
        return name

    def features(self, names: Sequence[str]) -> Features:
        """The features of some pictures."""

        def load(wanted: Sequence[str], layers: tuple[int, ...] | None) -> list[Tensor]:
            return [torch.stack([self._taps[name][layer] for name in wanted]) for layer in layers or range(2)]

        return Features(tuple(names), load)


@dataclass(frozen=True)
class Told:
    """What the tests told of one order of images: number of the first alarm (0: none), and its subject."""

    after: int
    subject: str = ""


class Line:
    """A champion of some pictures, and the inspections of others in any order."""

    def __init__(self, pictures: Pictures, learnt: Sequence[str], judged: Sequence[str], others: Sequence[str]) -> None:
        method = METHODS["patchcore"](pooling="concat", coreset_ratio=0.01)
        train = pictures.features(sorted(learnt))
        scorer = Scorer(method, method.fit(train, RUNTIME), train, None, (SIDE, SIDE), RUNTIME)
        self.scores: dict[str, float] = {}
        for names, found in scorer(pictures.features([*judged, *others]), new=True):
            self.scores |= zip(names, found.image_scores.tolist(), strict=True)
        self._looks = pictures.looks
        nominal = scorer.nominal(train, len(train), by_group=True)
        shown = [pictures.looks[name] for name in (*nominal.image_ids, *judged)]
        statistics = {what: [look[number] for look in shown] for number, what in enumerate((BRIGHTNESS, CONTRAST))}
        groups = nominal.groups or list(range(len(nominal.scores)))
        alone = [len(groups) + number for number in range(len(judged))]
        self._champion = Champion(
            "patchcore",
            nominal.scores,
            frozenset(learnt),
            {name: self.scores[name] for name in judged},
            statistics,
            groups,
            statistics_groups=[*groups, *alone],
        )

    def told(self, stream: Sequence[str]) -> Told:
        """What drift is told of these images in this order."""
        rows = [
            Inspection(
                name,
                name,
                START + datetime.timedelta(seconds=number),
                "predict",
                "champion",
                self.scores[name],
                brightness=self._looks[name][0],
                contrast=self._looks[name][1],
            )
            for number, name in enumerate(stream)
        ]
        tests = drift_tests(rows, {"champion": self._champion}, set(), ALPHA)
        assert [test.subject for test in tests] == ["patchcore", IMAGE_STATISTICS]
        alarms = [Told(test.alarm + 1, test.subject) for test in tests if test.alarm is not None]
        return min(alarms, key=lambda alarm: alarm.after, default=Told(0))


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return Pictures()


@pytest.fixture(scope="module")
def tiles() -> list[Path]:
    return sorted((MAGNETIC_TILES / "MT_Free/Imgs").glob("*.jpg"))


def parts(names: Sequence[str], *counts: int, random: np.random.Generator) -> list[list[str]]:
    """Disjoint random parts of some pictures, of these sizes."""
    shuffled = [names[number] for number in random.permutation(len(names))]
    ends = np.cumsum(counts).tolist()
    assert ends[-1] <= len(names)
    return [shuffled[end - count : end] for end, count in zip(ends, counts, strict=True)]


def mixed(parts: Sequence[Sequence[str]], random: np.random.Generator) -> list[str]:
    """The parts one after another, each in random order."""
    return [part[number] for part in parts for number in random.permutation(len(part))]


def test_new_tiles_of_the_same_line_are_quiet(pictures: Pictures, tiles: list[Path]) -> None:
    random = np.random.default_rng(0)
    names = [pictures.add(path) for path in tiles]
    found = []
    for _ in range(8):
        learnt, judged, stream = parts(names, LEARNT, JUDGED, 200, random=random)
        line = Line(pictures, learnt, judged, stream)
        found += [line.told(mixed([stream], random)) for _ in range(25)]
    alarms = [told for told in found if told.after]
    print(f"quiet: {len(alarms)} of {len(found)} orders alarm")
    assert len(found) == 200
    assert len(alarms) <= ALPHA * len(found)


@pytest.mark.parametrize(
    ("before", "after", "within"),
    [(1, 6, 10), (2, 6, 10), (3, 1, 15), (1, 2, 30), (4, 3, 45), (5, 6, 60), (6, 5, 60)],
)
def test_another_exposure_of_the_camera_is_told(
    pictures: Pictures, tiles: list[Path], before: int, after: int, within: int
) -> None:
    random = np.random.default_rng([before, after])
    old, new = ([pictures.add(path) for path in tiles if path.name.startswith(f"exp{n}_")] for n in (before, after))
    learnt, judged, usual = parts(old, LEARNT, JUDGED, USUAL, random=random)
    (later,) = parts(new, 100, random=random)
    line = Line(pictures, learnt, judged, [*usual, *later])
    report(f"exp{before} to exp{after}", line, lambda: mixed([usual, later], random), within)


@pytest.mark.parametrize("light", [1.5, 0.5])
def test_a_ramp_of_light_is_told_while_all_exposures_are_mixed(
    pictures: Pictures, tiles: list[Path], light: float
) -> None:
    random = np.random.default_rng(7)
    names = [str(path) for path in tiles]
    learnt, judged, usual, later = parts(names, LEARNT, JUDGED, USUAL, RAMP, random=random)
    plain = [[pictures.add(Path(name)) for name in part] for part in (learnt, judged, usual)]
    ramp = [pictures.add(Path(name), float(f)) for name, f in zip(later, np.linspace(1, light, RAMP), strict=True)]
    line = Line(pictures, plain[0], plain[1], [*plain[2], *ramp])

    def stream() -> list[str]:
        return [*mixed([plain[2]], random), *ramp]

    report(f"ramp to {light:g} of the light", line, stream, 120)


def report(what: str, line: Line, stream: Callable[[], list[str]], within: int) -> None:
    """Of 20 orders at least 18 tell the change, and none before it."""
    found = [line.told(stream()) for _ in range(20)]
    late = sorted(told.after - USUAL for told in found if told.after > USUAL)
    who = sum(told.subject == IMAGE_STATISTICS for told in found)
    print(f"{what}: {len(late)} of 20, median {np.median(late):g}, last {late[-1]} images; {who} by image statistics")
    assert sum(0 < told.after <= USUAL for told in found) <= 1
    assert sum(number <= within for number in late) >= 18


@pytest.mark.parametrize(("category", "told"), [("grass", True), ("brick", False), ("gravel", False), ("board", False)])
def test_good_test_images_of_the_demo_are_unlike_the_training_images_of_some_of_its_categories(
    pictures: Pictures, tmp_path: Path, category: str, *, told: bool
) -> None:
    """Crops of the other half of each photograph, only fifteen. The training images of `brick` are near-copies in five
    groups, which is too few to say what is usual; the halves of `gravel` differ little; `board` is drawn, so all its
    images are alike.
    """
    from ad_assets.datasets.readers.demo.reader import DemoReader

    DemoReader(root=str(tmp_path)).prepare(category)
    learnt, new = (
        [pictures.add(path) for path in sorted((tmp_path / category / part / "good").glob("*.png"))]
        for part in ("train", "test")
    )
    line, random = Line(pictures, learnt, [], new), np.random.default_rng(3)
    alarms = sum(line.told(mixed([new], random)).after > 0 for _ in range(20))
    print(f"demo {category}: {alarms} of 20 orders of {len(new)} images alarm")
    assert (alarms >= 18) == told


BATCHES, POISONED = 64, 41


def test_a_poisoned_batch_among_64_is_found_in_few_fits_and_no_forward_pass(
    tiles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two defective tiles that are tested have all but copies in one batch of four; the other batches are good."""
    random = np.random.default_rng(5)
    good = [tiles[number] for number in random.permutation(len(tiles))]
    broken = sorted((MAGNETIC_TILES / "MT_Break/Imgs").glob("*.jpg"))[:10]
    images = tmp_path / "images/tile"
    for part in ("train/good", "test/good", "test/break", "ground_truth/break"):
        (images / part).mkdir(parents=True)
    for number, path in enumerate(good[:20]):
        (images / f"test/good/{number}.jpg").write_bytes(path.read_bytes())
    for number, path in enumerate(broken):
        (images / f"test/break/{number}.jpg").write_bytes(path.read_bytes())
        mask = np.asarray(Image.open(path.with_suffix(".png")).convert("L")) > 127
        Image.fromarray(mask).save(images / f"ground_truth/break/{number}_mask.png")
    bench: Bench | None = None
    for batch in range(1, BATCHES + 1):
        for number in range(4):
            target = images / f"train/good/{batch:02}_{number}.png"
            if batch == POISONED and number < 2:
                pixels = np.asarray(Image.open(broken[number]).convert("RGB")) // 2 * 2
                Image.fromarray(pixels).save(target)
            else:
                Image.open(good[20 + 4 * batch + number]).save(target)
        bench = bench or bench_of(tmp_path)
        made(bench, "parts/image_index", "tile")
    assert bench is not None
    made(bench, "parts/features/lite0", "tile")
    monkeypatch.setattr(backbone.Backbone, "extract", lambda *_: pytest.fail("a forward pass"))
    result = bisect_landings("parts", "near", "tile", "image_auroc", bench.benchmark)
    assert result.before
    assert result.after
    print(
        f"bisect: batch {result.batch} in {result.fits} fits, {result.seconds:.0f} s; image AUROC "
        f"{result.before.value:.3f} before, {result.after.value:.3f} after"
    )
    assert result.batch == (POISONED,)
    assert result.fits <= 7
    assert {image.name for image in result.added} == {f"{POISONED}_{number}.png" for number in range(4)}
    assert {win.image_id for win in result.wins} & {image.image_id for image in result.added}


def bench_of(folder: Path) -> Bench:
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    bench.tree["extractors"]["lite0"]["resize"] = [SIDE, SIDE]
    bench.tree["datasets"]["parts"]["detectors"] = {
        "near": {"method": "patchcore", "extractor": "lite0", "pooling": "concat", "coreset_ratio": 0.02}
    }
    bench.reload()
    return bench
