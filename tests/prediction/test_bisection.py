"""The batch that cost a drop, found by few fits and without a backbone."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import numpy as np
import pytest

from ad_assets.backbones import backbone
from ad_assets.cli import main
from ad_assets.graph.build import materialize
from ad_assets.prediction import DetectorError
from ad_assets.prediction.bisection import Bisection, TrainingSets, bisect_landings, search
from ad_assets.prediction.refits import Refits
from ad_assets.production.landing_history import IndexedImage, Landing
from ad_assets.store.store import ArtifactStore
from tests.support.bench_graph import Bench, draw_image, write_image

BATCHES, POISONED = 16, 11
SPOT = (24, 24)


class Quiet:
    def info(self, message: str) -> None:
        """Drop it."""


def with_spot(seed: int) -> np.ndarray:
    """A defect in a place that is always the same."""
    image = draw_image(seed).astype(int)
    image[SPOT[0] : SPOT[0] + 14, SPOT[1] : SPOT[1] + 14] = 240
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Sixteen batches of two images, one of which has a defective image among the good ones; with all features."""
    folder = tmp_path_factory.mktemp("line")
    good = folder / "images" / "bolt" / "train" / "good"
    test = folder / "images" / "bolt" / "test"
    masks = folder / "images" / "bolt" / "ground_truth" / "spot"
    for number in range(6):
        write_image(test / "good" / f"{number}.png", draw_image(500 + number))
        write_image(test / "spot" / f"{number}.png", with_spot(600 + number))
        mask = np.zeros((64, 64), np.uint8)
        mask[SPOT[0] : SPOT[0] + 14, SPOT[1] : SPOT[1] + 14] = 255
        write_image(masks / f"{number}_mask.png", mask)
    bench: Bench | None = None
    for batch in range(1, BATCHES + 1):
        for number in range(2):
            seed = 1000 + 2 * batch + number
            # All but a copy of a defective test image.
            image = with_spot(603) // 2 * 2 if batch == POISONED and number else draw_image(seed)
            write_image(good / f"{batch:02}_{number}.png", image)
        if bench is None:
            bench = Bench(folder, dg.DagsterInstance.ephemeral())
        made(bench, "parts/image_index")
    assert bench is not None
    bench.tree["datasets"]["parts"]["detectors"]["near"] = {"method": "spade", "extractor": "lite0", "neighbours": 1}
    bench.tree["datasets"]["parts"]["detectors"]["full"]["sigma"] = 0
    bench.reload()
    made(bench, "parts/features/lite0")
    return bench


def made(bench: Bench, name: str, category: str = "bolt") -> None:
    [stage] = [stage for stage in bench.stages if stage.name == name]
    materialize(stage, category, bench.benchmark.store, bench.benchmark.compute, Quiet())


@pytest.fixture(autouse=True)
def no_backbone(line: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once all features are stored, no image passes a backbone."""
    monkeypatch.setattr(backbone.Backbone, "extract", lambda *_: pytest.fail("a forward pass"))


def found(line: Bench, lane: str, metric: str, **options: Any) -> Bisection:
    return bisect_landings("parts", lane, "bolt", metric, line.benchmark, **options)


def test_a_bank_that_knows_its_images_names_batch_image_and_patches_in_four_fits(line: Bench) -> None:
    result = found(line, "full", "image_auroc")
    assert result.batch == (POISONED,)
    assert result.fits == 4
    assert [image.name for image in result.added] == ["11_0.png", "11_1.png"]
    assert result.before
    assert result.after
    assert result.before.value == 1.0 > result.after.value
    [win] = result.wins
    assert win.image_id == result.added[1].image_id
    cell = 64 / win.grid[0]
    for row, column in (win.test_place, win.train_place):
        assert SPOT[0] / cell - 2 <= row <= (SPOT[0] + 14) / cell + 1
        assert SPOT[1] / cell - 2 <= column <= (SPOT[1] + 14) / cell + 1
    assert win.distances[1] < win.distances[0]


def test_any_other_method_takes_about_the_logarithm_of_the_versions(line: Bench) -> None:
    result = found(line, "near", "image_auroc")
    assert (result.batch, result.wins) == ((POISONED,), ())
    assert result.fits <= 2 + 4


def test_false_alarms_name_the_alarms_and_reject_nothing(line: Bench) -> None:
    often = ["evaluation.nominal_false_positive_rate=0.5"]
    result = bisect_landings("parts", "full", "bolt", "false_alarms", line.folder / "bench.yaml", often)
    assert result.before
    assert result.after
    assert result.after.value > result.before.value
    assert len(result.alarms) >= result.after.value - result.before.value
    assert all(path.startswith("bolt/test/good/") for path in result.alarms)
    assert None not in result.thresholds
    assert (result.wins, result.reject) == ((), "")
    assert any("so few that it may be chance" in note for note in result.notes)


def test_pixel_metrics_and_a_part_of_the_history(line: Bench) -> None:
    assert found(line, "full", "pixel_ap", first=9, last=13).batch == (POISONED,)
    nothing = found(line, "full", "image_auroc", first=1, last=POISONED - 1)
    assert (nothing.batch, nothing.before, nothing.added) == ((), None, ())


def test_a_fit_from_scratch_that_the_store_has_is_found(line: Bench) -> None:
    made(line, "parts/full/memory_bank")
    assert found(line, "full", "image_auroc").fits == 3


def test_the_command_prints_batch_images_and_what_rejects_them(
    line: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AD_ASSETS_CONFIG", str(line.folder / "bench.yaml"))
    assert main(["bisect", "parts", "full", "bolt"]) == 0
    text = capsys.readouterr().out
    assert f"with version {POISONED} (" in text
    assert "bolt/train/good/11_1.png matches" in text
    assert "no image through a backbone" in text
    assert "move out of the training folder, then run ad-assets materialize: bolt/train/good/11_1.png" in text
    line.tree["datasets"]["parts"]["production"] = {}
    line.reload()
    try:
        result = found(line, "full", "image_auroc")
    finally:
        del line.tree["datasets"]["parts"]["production"]
        line.reload()
    assert result.reject == f"ad-assets quarantine parts bolt --reject {result.added[1].image_id[:12]}"


def test_versions_whose_features_are_gone_are_passed_over_and_said(line: Bench) -> None:
    store = line.benchmark.store
    gone = feature_of(line, "10_0.png")
    kept = store.fetch(gone)
    store.delete([gone])
    try:
        with pytest.raises(DetectorError, match=r"1 version\(s\) that can be fitted .*versions \(10 to 16\)"):
            found(line, "full", "image_auroc", first=9)
    finally:
        store.write_bytes(gone, kept)


def feature_of(line: Bench, name: str) -> str:
    from ad_assets.graph.stages.feature_files import feature_path
    from ad_assets.production.landing_history import images_of, read_landings

    [stage] = [stage for stage in line.stages if stage.name == "parts/features/lite0"]
    images = images_of(read_landings(line.benchmark.store, "parts", "bolt"))
    return feature_path(stage.code_version, next(image.image_id for image in images if image.name == name))


@pytest.mark.parametrize(
    ("lane", "metric", "options", "said"),
    [
        ("full", "threshold", {}, "give false_alarms, misses, or a metric of quality"),
        ("full", "nonsense", {}, "give false_alarms, misses, or a metric of quality"),
        ("full", "au_spro_0.30", {}, "au_spro_0.30 is not measured"),
        ("full", "image_auroc", {"first": 5, "last": 5}, "give two of 1 to 16"),
        ("full", "image_auroc", {"last": 17}, "give two of 1 to 16"),
        ("none", "image_auroc", {}, "none"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    line: Bench, lane: str, metric: str, options: dict[str, int], said: str
) -> None:
    with pytest.raises(DetectorError, match=said):
        found(line, lane, metric, **options)


@pytest.mark.parametrize(
    ("landings", "numbers", "arrived"),
    [
        ([("a", ""), ("b", ""), ("c", "")], [1, 2, 3], {"a": 1, "b": 2, "c": 3}),
        ([("a", ""), ("", ""), ("b", "a")], [1, 3], {"b": 3}),  # nothing of the training images changed
        ([("ab", ""), ("", "a"), ("a", "")], [1, 2, 3], {"a": 3, "b": 1}),  # it came back
        ([("aa", ""), ("b", "a"), ("", "a")], [1, 2, 3], {"b": 2}),  # under two names
        ([("a", ""), ("T", ""), ("b", "T")], [1, 3], {"a": 1, "b": 3}),  # tested today
        ([("a", ""), ("X", ""), ("b", ""), ("c", "X")], [1, 4], {"a": 1, "b": 3, "c": 4}),  # without features
    ],
)
def test_versions_that_can_be_fitted(
    landings: list[tuple[str, str]], numbers: list[int], arrived: dict[str, int]
) -> None:
    copies: Counter[str] = Counter()

    def rows(names: str, *, gone: bool) -> tuple[IndexedImage, ...]:
        found = []
        for name in names:
            copies[name] += -1 if gone else 1
            found.append(IndexedImage(name, f"{name}{copies[name] + gone}", "train", 0, ""))
        return tuple(found)

    history = []
    for come, left in landings:
        removed = rows(left, gone=True)
        history.append(Landing("", "", rows(come, gone=False), removed))

    def absent(images: set[str], *, learnt: bool) -> set[str]:
        return images & {"X"} if learnt else set()

    refits = SimpleNamespace(truth=SimpleNamespace(positions={"T": [0]}), absent=absent)
    sets = TrainingSets(history, cast(Refits, refits), 1, None)
    assert (sets.numbers, sets.arrived) == (numbers, arrived)
    assert sets.images(len(landings)) == set(arrived)


def test_without_a_history_there_is_nothing_to_search(line: Bench, tmp_path: Path) -> None:
    empty = line.benchmark.__class__(**{**vars(line.benchmark), "store": ArtifactStore(root=str(tmp_path))})
    with pytest.raises(DetectorError, match="no test images"):
        bisect_landings("parts", "full", "bolt", "image_auroc", empty)


# -- the search itself ----------------------------------------------------------------------------------------------


def counted(series: Sequence[float]) -> tuple[Callable[[int], float], set[int]]:
    asked: set[int] = set()

    def value(position: int) -> float:
        asked.add(position)
        return series[position]

    return value, asked


def worse(value: float, reference: float) -> bool:
    return value < reference


@pytest.mark.parametrize("guessed", [True, False])
@pytest.mark.parametrize("step", [0, 1, 30, 31, 32, 62])
def test_a_step_among_64_versions_takes_six_fits_beyond_the_ends(step: int, guessed: bool) -> None:
    value, asked = counted([0.9] * (step + 1) + [0.7] * (63 - step))
    assert search(64, value, worse, lambda: [step] if guessed else []) == (step, step + 1)
    assert len(asked) <= (4 if guessed else 8)


@pytest.mark.parametrize(
    ("series", "guesses", "expected"),
    [
        ([0.9] * 8, [], None),  # nothing dropped
        ([0.5, 0.6, 0.7, 0.8], [], None),  # it rose
        ([0.5, 0.6, 0.8, 0.9, 0.9, 0.9, 0.7, 0.7], [], (5, 6)),  # it rose, and dropped to more than at first
        ([0.5, 0.9, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7], [1], (1, 2)),  # that lies where a guess says, not at a quarter
        ([0.9, 0.9, 0.88, 0.88, 0.88, 0.88, 0.88, 0.6], [], (6, 7)),  # the larger of two drops
        ([0.9, 0.9, 0.6, 0.6, 0.6, 0.6, 0.58, 0.58], [5], (1, 2)),  # a wrong guess costs fits, and no error
        ([0.9, 0.9, 0.95, 0.95, 0.7, 0.7], [], (3, 4)),  # it rose before it dropped
        ([0.9, 0.7], [], (0, 1)),
    ],
)
def test_where_the_larger_part_of_a_drop_lies(
    series: list[float], guesses: list[int], expected: tuple[int, int] | None
) -> None:
    assert search(len(series), counted(series)[0], worse, lambda: guesses) == expected
