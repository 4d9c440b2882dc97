"""Blind settings of the real Magnetic Tile Defects: their images, and outlier factors of real patches."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor

from ad_assets.backbones.backbone import load_backbone
from ad_assets.config.load import load_config
from ad_assets.datasets import Decoding, build_index
from ad_assets.datasets.readers.blind import BlindReader
from ad_assets.datasets.readers.mtd import CATEGORY, MtdReader
from ad_assets.methods import METHODS, Batch, Runtime
from tests.support.places import MAGNETIC_TILES
from tests.support.tap_features import tap_features

RUNTIME = Runtime(memory_gb=2)

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not (MAGNETIC_TILES / "MT_Free").is_dir(), reason=f"no Magnetic Tile Defects in {MAGNETIC_TILES}"
    ),
]


def test_the_images_of_each_setting() -> None:
    labelled = MtdReader(root=str(MAGNETIC_TILES))
    known = build_index(labelled, CATEGORY).files
    counts = {}
    for setting in ("mix", "test", "ano"):
        index = build_index(BlindReader(of=labelled, setting=setting), CATEGORY, known_files=known)
        rows = index.table.to_pylist()
        train, test = ([row for row in rows if row["split"] == split] for split in ("train", "test"))
        assert {row["image_id"] for row in train} == {row["image_id"] for row in test}
        assert {row["label"] for row in train} == {None}
        counts[setting] = (sum(row["label"] == 0 for row in test), sum(row["label"] == 1 for row in test))
    assert counts == {"mix": (952, 392), "test": (191, 392), "ano": (0, 392)}


def test_factors_of_real_patches_are_those_of_scikit_learn() -> None:
    benchmark = load_config("mtd_blind", [f"datasets.mtd.root={MAGNETIC_TILES}"], environ={})
    backbone = load_backbone(benchmark.extractors["lite0"], benchmark.compute)
    paths = sorted(MAGNETIC_TILES.glob("MT_*/Imgs/*.jpg"))[::50]
    pixels = torch.stack([backbone.preprocess(Decoding().rgb(path.read_bytes(), path.name)) for path in paths])
    taps = backbone.extract(pixels)
    features = tap_features(taps)
    lane = benchmark.datasets["mtd_test"].detectors["patchcore_lof"].method_for(CATEGORY)
    method = METHODS["patchcore_lof"](**{**lane.model_dump(exclude={"layers"}, exclude_unset=True), "sigma": 0})
    selected = tap_features([taps[layer - 1] for layer in lane.layers or ()])
    state = method.prepare(method.fit(selected, RUNTIME), selected, RUNTIME)
    taps = selected.load(selected.image_ids, None)
    grid = tuple(state.grid)
    found = method.score(state, Batch(taps, grid, features.image_ids), RUNTIME)
    expected = -LocalOutlierFactor(n_neighbors=100).fit(state.rows.double().numpy()).negative_outlier_factor_
    assert len(expected) == len(paths) * grid[0] * grid[1] > 6000
    np.testing.assert_allclose(found.maps.flatten(), expected, rtol=1e-4)
