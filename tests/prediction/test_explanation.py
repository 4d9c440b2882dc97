"""The training images behind a score, and what the score is without them."""

import json
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import torch
from PIL import Image

from ad_assets.cli import main
from ad_assets.graph.build import materialize
from ad_assets.methods import Batch
from ad_assets.methods.sources import sources_at
from ad_assets.prediction import DetectorError, Predictor, load_detector
from ad_assets.prediction.explanation import HIDDEN, Explanation, explain
from ad_assets.prediction.explanation_files import KnownImages
from ad_assets.prediction.lookup import Lookup
from ad_assets.prediction.refits import Refits
from tests.support.bench_graph import Bench, draw_image, write_image

SPOT = slice(24, 38)
LANES = {
    "near": {"method": "spade", "extractor": "lite0", "neighbours": 3, "sigma": 0},
    "layers": {"method": "superadd", "extractor": "lite0"},
    "placed": {"method": "rad", "extractor": "lite0", "neighbours": 5, "sigma": 0},
    "sheets": {"method": "hetmm", "extractor": "lite0", "windows": [3, 3]},
    "few": {"method": "hetmm", "extractor": "lite0", "windows": [5, 3], "sheets": 3},
    "gauss": {"method": "padim", "extractor": "lite0"},
    "both": {"method": "ensemble", "members": ["full", "gauss"]},
}
STATES = ("memory_bank", "template_set", "trained_model")


class Quiet:
    def info(self, message: str) -> None:
        """Drop it."""


def with_spot(seed: int) -> np.ndarray:
    image = draw_image(seed)
    image[SPOT, SPOT] = 240
    return image


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A category with a defective image among its good ones; the test images hold all but a copy of it."""
    folder = tmp_path_factory.mktemp("line")
    base = folder / "images" / "bolt"
    for number in range(6):
        write_image(base / "train" / "good" / f"{number}.png", draw_image(100 + number))
    write_image(base / "train" / "good" / "poison.png", with_spot(603) // 2 * 2)
    write_image(base / "test" / "good" / "fine.png", draw_image(500))
    write_image(base / "test" / "spot" / "missed.png", with_spot(603))
    mask = np.zeros((64, 64), np.uint8)
    mask[SPOT, SPOT] = 255
    write_image(base / "ground_truth" / "spot" / "missed_mask.png", mask)
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    bench.tree["datasets"]["parts"]["detectors"] |= LANES
    bench.reload()
    for stage in bench.stages:
        if stage.kind in ("image_index", "features", *STATES):
            materialize(stage, "bolt", bench.benchmark.store, bench.benchmark.compute, Quiet())
    return bench


def loaded(line: Bench, lane: str) -> Predictor:
    return load_detector("parts", lane, "bolt", line.benchmark, record=False)


def known(line: Bench) -> KnownImages:
    return KnownImages(line.benchmark.store, line.benchmark.datasets["parts"], "bolt")


def missed(line: Bench, lane: str) -> Explanation:
    images = known(line)
    image_id = images.find("missed.png")
    assert image_id
    return explain(loaded(line, lane), images.data(image_id), defect=images.defect(image_id))


@pytest.mark.parametrize("lane", ["full", "small", "near", "layers", "placed", "sheets", "few"])
def test_a_missed_defect_leads_to_the_training_image_that_let_it_pass(line: Bench, lane: str) -> None:
    explanation = missed(line, lane)
    assert explanation.chosen == (
        "hottest place of the defect" if lane in ("near", "layers", "placed", "sheets", "few") else HIDDEN
    )
    assert all(SPOT.start - 4 <= side < SPOT.stop + 4 for side in explanation.place)
    assert Path(known(line).path(explanation.culprit.image_id)).name == "poison.png"
    assert explanation.culprit.peak > explanation.peak
    assert explanation.culprit.score >= explanation.prediction.score
    nearest = min(explanation.sources, key=lambda source: (source.layer or 0, source.distance))
    assert nearest.image_id == explanation.culprit.image_id
    assert all(abs(part * 64 - side) < 12 for part, side in zip(nearest.place, explanation.place[::-1], strict=True))


@pytest.mark.parametrize("lane", ["full", "near", "layers", "placed", "sheets"])
def test_the_score_without_a_training_image_is_that_of_a_fit_without_it(line: Bench, lane: str) -> None:
    explanation = missed(line, lane)
    detector = loaded(line, lane)
    dataset = line.benchmark.datasets["parts"]
    refits = Refits(Lookup.of(line.benchmark), dataset, dataset.detectors[lane], "bolt", "image_auroc", lambda *_: None)
    [member] = detector.members
    refit = refits.fit(set(member.images) - {explanation.culprit.image_id})
    [score] = [
        score
        for row, score in zip(refits.truth.rows, refit.scores, strict=True)
        if row["image_id"] == explanation.image_id
    ]
    assert explanation.culprit.score == pytest.approx(float(score), rel=1e-5)


def test_the_distance_to_the_nearest_patch_of_a_bank_is_the_score_of_the_hottest_place(line: Bench) -> None:
    images = known(line)
    fine = images.find("fine.png")
    assert fine
    explanation = explain(loaded(line, "full"), images.data(fine))
    assert explanation.chosen == "hottest place"
    assert explanation.sources[0].distance == pytest.approx(explanation.prediction.score, rel=1e-5)
    distances = [source.distance for source in explanation.sources]
    assert distances == sorted(distances)


def test_sources_of_templates_are_those_of_the_largest_cosine_in_the_window(line: Bench) -> None:
    [member] = loaded(line, "sheets").members
    taps = [torch.randn(1, *shape) for shape in member.scorer.state.shapes]
    found = sources_at(member.scorer.method, member.scorer.state, taps, (0.0, 0.99), 1, member.scorer.runtime)
    for source, tap, templates in zip(found, taps, member.scorer.state.templates, strict=True):
        query = torch.nn.functional.normalize(tap[0, :, 0, -1], dim=0)
        cosines = templates[:2, -2:] @ query
        assert source.distance == pytest.approx(1 - float(cosines.max()), abs=1e-6)
        assert member.scorer.state.image_ids.index(source.image_id) == int(cosines.flatten(0, 1).amax(0).argmax())


@pytest.mark.parametrize("radius", [1, None])
def test_sources_of_retrieved_images_are_what_the_score_of_the_place_is_from(line: Bench, radius: int | None) -> None:
    [member] = loaded(line, "placed").members
    state, tools = member.scorer.state, member.scorer.runtime
    method = member.scorer.method.model_copy(update={"radius": radius, "neighbours": 3})
    taps = [torch.randn(1, vectors.shape[2], side, side) for vectors, side in zip(state.vectors, (8, 4), strict=True)]
    found = sources_at(method, state, taps, (0.0, 0.99), 1, tools)
    assert [source.layer for source in found] == [1, 2]
    for layer, source in enumerate(found):
        alone = replace(state, vectors=[state.vectors[layer]])
        # That layer alone, and behind it one cell by which the same images are retrieved.
        read = Batch([taps[layer], taps[-1].mean(dim=(2, 3), keepdim=True)], tuple(taps[layer].shape[2:]))
        score = method.score(alone, read, tools).maps[0, 0, -1]
        assert source.distance == pytest.approx(float(score), abs=1e-5)


@pytest.mark.parametrize(
    ("lane", "name", "at", "said"),
    [
        ("gauss", "missed.png", None, "padim keeps a mean and a covariance of all training images"),
        ("both", "missed.png", None, "is an ensemble: explain one of full, gauss"),
        ("full", "3.png", None, "is one of the training images"),
        ("full", "missed.png", (64.0, 3.0), "was not looked at"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    line: Bench, lane: str, name: str, at: tuple[float, float] | None, said: str
) -> None:
    images = known(line)
    image_id = images.find(f"good/{name}" if name == "3.png" else name)
    assert image_id
    with pytest.raises(DetectorError, match=said):
        explain(loaded(line, lane), images.data(image_id), at=at)


@pytest.mark.parametrize("at", [(30, 50), (63, 30), (95, 59)])
def test_a_given_place_is_the_patch_around_it(line: Bench, at: tuple[int, int]) -> None:
    detector = loaded(line, "full")
    pixels = np.asarray(Image.fromarray(draw_image(900)).resize((128, 96)))
    explanation = explain(detector, pixels, at=at)
    left, top, right, bottom = explanation.box
    assert left <= at[0] <= right
    assert top <= at[1] <= bottom
    assert (right - left) / 128 == pytest.approx((bottom - top) / 96, rel=0.01)


def test_the_command_writes_picture_and_numbers_and_names_the_image(
    line: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AD_ASSETS_CONFIG", str(line.folder / "bench.yaml"))
    assert main(["explain", "parts", "full", "bolt", "missed.png", "--out", str(tmp_path / "why")]) == 0
    text = capsys.readouterr().out
    assert f"{HIDDEN}: " in text
    assert "without bolt/train/good/poison.png: up to" in text
    picture = Image.open(tmp_path / "why" / "explanation.png")
    assert picture.size[0] > 900  # image, heat map and training image
    numbers = json.loads((tmp_path / "why" / "explanation.json").read_text())
    assert numbers["image"] == "bolt/test/spot/missed.png"
    assert numbers["without"][0]["path"] == numbers["sources"][0]["path"] == "bolt/train/good/poison.png"
    assert "poison.png" in numbers["reject"]
    assert main(["explain", "parts", "full", "bolt", "nobody.png"]) == 2
    assert "no such file" in capsys.readouterr().err
    fine = str(line.images / "bolt/test/good/fine.png")
    assert main(["explain", "parts", "full", "bolt", fine, "--at", "5,5", "--out", str(tmp_path)]) == 0
    assert "given place: " in capsys.readouterr().out
