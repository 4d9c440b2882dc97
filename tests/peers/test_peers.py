"""The comparison with anomalib, with a stub in its place: what is judged and what the page says."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from ad_assets.backbones.backbone import load_backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.datasets.readers.folder import FolderReader
from ad_assets.datasets.readers.mvtec_ad import MvtecAdReader
from ad_assets.methods import Batch, Runtime
from ad_assets.methods.padim import Padim
from ad_assets.settings.compute import Compute
from ad_assets_runtime.decoding import ImageDecoding
from tests.peers import costs
from tests.peers.costs import Cost
from tests.peers.experiments import score_their_draw
from tests.peers.folders import CATEGORY, Truth, lay_out
from tests.peers.head import head
from tests.peers.judge import METRICS, Scores, difference_from_scikit_learn, judge
from tests.peers.lanes import AGAIN, CHANGED, FIRST, MORE, PADIM, datasets
from tests.peers.page import page, quality
from tests.peers.records import CHECKS, OURS, THEIR_DRAW, THEIRS, Record, Records
from tests.peers.sides import SCRIPT, Theirs
from tests.support.tap_features import tap_features
from tests.support.trees import mvtec_tree

NOTES: dict[str, float | str] = {
    "features": 1e-6,
    "scikit-learn": 0.0,
    "anomalib": "2.7.0",
    "torch": "2.14",
    "commit": "abc1234",
}


def truth_and_scores() -> tuple[Truth, Scores]:
    """Six images, every other one with a spot, and a stub's scores of them."""
    rng = np.random.default_rng(0)
    paths = [f"{'anomalous' if number % 2 else 'good'}/{number:05d}.png" for number in range(6)]
    masks = {path: np.zeros((8, 8), bool) for path in paths[1::2]}
    for mask in masks.values():
        mask[2:4, 3:6] = True
    truth = Truth({path: int(path in masks) for path in paths}, masks)
    maps = rng.random((6, 8, 8), np.float32) + 0.5 * np.stack([masks.get(p, np.zeros((8, 8), bool)) for p in paths])
    return truth, Scores(paths, rng.random(6), maps.astype(np.float32))


def test_both_sides_are_judged_by_one_code_that_agrees_with_scikit_learn() -> None:
    truth, scores = truth_and_scores()
    judged = judge(scores, truth)
    assert judged["image AUROC"] == pytest.approx(100 * roc_auc_score(list(truth.labels.values()), scores.image))
    assert difference_from_scikit_learn(scores, truth) < 1e-9
    order = np.array([4, 1, 5, 0, 2, 3])
    turned = Scores([scores.paths[number] for number in order], scores.image[order], scores.maps[order])
    assert judge(turned, truth) == pytest.approx(judged)
    maps = np.stack([truth.masks.get(path, np.zeros((8, 8))) for path in scores.paths]).astype(np.float32)
    assert judge(Scores(scores.paths, np.arange(6) % 2, maps), truth) == dict.fromkeys(METRICS, pytest.approx(100))


def test_scores_of_other_images_or_another_frame_are_refused() -> None:
    truth, scores = truth_and_scores()
    with pytest.raises(ValueError, match=r"5 images were scored, 6 are to be; such as .*00005"):
        judge(Scores(scores.paths[:5], scores.image[:5], scores.maps[:5]), truth)
    with pytest.raises(ValueError, match="compare in one frame"):
        judge(dataclasses.replace(scores, maps=scores.maps[:, :4]), truth)


def run(side: str, step: str, seed: int, points: float, seconds: float) -> Record:
    """A run of one category."""
    cost = Cost(seconds, 2 * seconds, 100 * seconds) if side in (OURS, THEIRS) else None
    notes = NOTES if side == CHECKS else {}
    metrics = dict.fromkeys(METRICS, points) if step in (FIRST, MORE) else {}
    return Record(
        "demo", "brick", "padim, 100 channels", seed, side, step, metrics, cost, "2026-01-02T03:04:05", 1, notes
    )


def records(theirs: float) -> list[Record]:
    """Two seeds of both sides, with the first asked more; theirs some points off."""
    found = []
    for seed in (0, 1):
        found += [run(OURS, FIRST, seed, 90 + 0.1 * seed, 10), run(THEIRS, FIRST, seed, theirs + 0.1 * seed, 40 + seed)]
        found += [run(THEIR_DRAW, FIRST, seed, 89.9, 0), run(CHECKS, FIRST, seed, 0, 0)]
    found += [run(OURS, AGAIN, 0, 0, 2), run(OURS, CHANGED, 0, 0, 5), run(THEIRS, CHANGED, 0, 0, 30)]
    return [*found, run(OURS, MORE, 0, 89.5, 4)]


def test_the_page_tells_what_is_apart_beyond_the_seeds_and_pairs_the_costs() -> None:
    compared = datasets(Path("demo"), None)
    changed = {"padim, 100 channels": "50 channels"}
    text = page(records(90.3), head(records(90.3), compared), changed)
    assert (
        "| demo | padim, 100 channels | AUPRO | 2 | 90.05 (90.00 to 90.10) | 90.35 (90.30 to 90.40) | -0.30 | no |"
        in text
    )
    assert "| 89.90 | +0.15 | -0.45 |" in text
    assert "| first run | 2 | 10.0 / 20.0 / 1,000 | 40.5 (40.0 to 41.0) / 81.0 (80.0 to 82.0)" in text
    assert "| a changed setting: 50 channels | 1 | 5.0 / 10.0 / 500 | 30.0 / 60.0 / 3,000 | 6.0 | 6.0 | 6.0 |" in text
    assert "| five more images | 1 | 4.0 / 8.0 / 400 | 40.0 / 80.0 / 4,000 | 10.0 |" in text  # anew
    assert "| AUPRO | 89.50 | 90.00 |" in text
    assert (
        "first run 4.0 (4.0 to 4.1), short of the goal of 10; the same again 20.0; a changed setting 6.0, short" in text
    )
    assert "anomalib 2.7.0 with torch 2.14; 2026-01-02 03:04" in " ".join(text.split())
    assert "Not measured yet: demo, patchcore, 1 %; demo, padim, all channels;" in " ".join(text.split())
    assert "of one seed" not in text
    assert "**2.90**, of one seed |" in page([r for r in records(92.9) if r.seed == 0], "", changed)
    assert "**0.50**" in page(records(90.6), "", changed)  # 90.6 to 90.7 beside 90.0 to 90.1


def test_a_seed_without_a_category_is_no_mean_of_the_others() -> None:
    odd = dataclasses.replace(run(OURS, FIRST, 0, 10, 1), category="board")
    with pytest.raises(ValueError, match="ours with seed 1 lacks board"):
        quality([odd, *records(90)], "demo", "padim, 100 channels", "AUPRO")


def test_a_comparison_goes_on_from_its_records_without_a_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    kept = Records(path)
    for record in records(90):
        kept.add(record)
    with path.open("a") as file:
        file.write('{"dataset": "de')
    again = Records(path)
    assert again.all == records(90)
    assert again.has(*(record.key for record in records(90)))
    assert not again.has(run(THEIRS, MORE, 0, 0, 0).key)
    again.add(odd := run(OURS, FIRST, 7, 1, 1))
    assert Records(path).all[-1] == odd


def test_both_sides_get_links_in_one_layout_and_the_last_images_later(tmp_path: Path) -> None:
    mvtec_tree(tmp_path / "given")
    reader, root = FolderReader(root=str(tmp_path / "given")), tmp_path / "linked"
    extractor = Extractor(backbone="resnet18", weights="random(0)", taps=("layer1",), resize=(8, 8))
    truth = lay_out(root, reader, "bottle", extractor, fewer=1)
    before = {path.name for path in root.rglob("train/good/*")}
    assert lay_out(root, reader, "bottle", extractor).labels == truth.labels
    after = {path.name for path in root.rglob("train/good/*")}
    assert before < after
    assert max(after) not in before
    assert len(after) == len(before) + 1
    assert set(truth.masks) == {path for path, label in truth.labels.items() if label}
    spot = next((tmp_path / "given" / "bottle" / "ground_truth").rglob("*.png"))
    small = np.zeros(np.asarray(Image.open(spot)).shape, np.uint8)
    small[1, 1] = 255  # a region that lies between the pixels of 2 x 2
    Image.fromarray(small).save(spot)
    coarse = extractor.model_copy(update={"resize": (2, 2)})
    sampled = MvtecAdReader(root=reader.root, check_counts=False)
    # Whatever the rule of the dataset: this project's side reads the folder that is laid out.
    assert all(mask.any() for mask in lay_out(tmp_path / "coarse", sampled, "bottle", coarse).masks.values())
    test = next((tmp_path / "given" / "bottle" / "test" / "good").iterdir())
    test.with_name(f"copy_of_{test.name}").write_bytes(test.read_bytes())
    once = lay_out(tmp_path / "without_copies", reader, "bottle", extractor)  # as the graph's metrics count pixels
    assert len(once.labels) == len(truth.labels) == len(list((tmp_path / "without_copies").rglob("test/*/*")))


def test_what_anomalib_drew_is_used_by_this_projects_code(tmp_path: Path) -> None:
    mvtec_tree(tmp_path / "given")
    extractor = Extractor(backbone="resnet18", weights="random(0)", taps=("layer1", "layer2"), resize=(16, 16))
    truth = lay_out(tmp_path, FolderReader(root=str(tmp_path / "given")), "bottle", extractor)
    backbone = load_backbone(extractor, Compute(device="cpu"))

    def taps_of(paths: list[Path]) -> list[torch.Tensor]:
        pixels = [backbone.preprocess(ImageDecoding().rgb(path.read_bytes(), path.name)) for path in paths]
        return backbone.extract(backbone.stack(pixels))

    train = tap_features(taps_of(sorted((tmp_path / CATEGORY / "train" / "good").iterdir())))
    method = Padim(channels=20, seed=3)
    state = method.prepare(method.fit(train, Runtime()), train, Runtime())
    paths = sorted(truth.labels)
    taps = taps_of([tmp_path / CATEGORY / "test" / path for path in paths])
    expected = method.score(state, Batch(taps, extractor.map_size), Runtime())
    theirs = {"paths": np.array(paths), "channels": state.channels.numpy()}
    scores = score_their_draw(tmp_path, extractor, PADIM, theirs)
    assert scores.paths == paths
    np.testing.assert_allclose(scores.maps, expected.maps.numpy(), rtol=1e-4)
    np.testing.assert_allclose(scores.image, expected.image_scores.numpy(), rtol=1e-4)


def test_a_command_is_measured_with_its_children_and_its_failure_is_shown(tmp_path: Path) -> None:
    script = "import os; os.fork() or os._exit(len(bytearray(b'x') * 50_000_000) % 2); os.wait()"
    cost = costs.run([sys.executable, "-S", "-c", script], tmp_path, tmp_path / "log", {})
    assert 0 < cost.cpu < 60
    assert cost.peak_mb > 50
    with pytest.raises(RuntimeError, match=r"(?s)ended with 3:.*the reason"):
        costs.run(
            [sys.executable, "-S", "-c", "import os; print('the reason', flush=True); os._exit(3)"],
            tmp_path,
            tmp_path / "log",
            {},
        )


def test_anomalibs_script_reads_the_very_keys_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "run", lambda *_: Cost(1, 1, 1))
    [demo] = datasets(tmp_path, None)
    theirs = Theirs(tmp_path, tmp_path / "images", demo.extractor, tmp_path / "probe.npy", tmp_path / "weights")
    theirs.run(demo.detectors[0], 3, {"coreset_sampling_ratio": 0.5})
    job = json.loads((tmp_path / "job.json").read_text())
    assert set(re.findall(r'job\["(\w+)"\]', SCRIPT.read_text())) == set(job)
    assert (job["seed"], job["resize"], job["crop"], job["layers"]) == (3, 256, 224, ["blocks.2", "blocks.4"])
    assert job["arguments"] == {"coreset_sampling_ratio": 0.5, "num_neighbors": 9}
