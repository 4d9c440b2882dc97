"""What is seen of a picture, in one sentence, and when it is a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.view import View
from ad_assets.commands.doctor import examine
from ad_assets.config.load import load_config
from tests.support.bench_graph import config_tree, write_dataset


def extractor(**settings: Any) -> Extractor:
    given = {"backbone": "tf_efficientnet_lite0", "weights": "random(0)", "taps": ["/8", "/16"], **settings}
    return Extractor.model_validate(given)


PAPER = {"resize": 256, "crop": 224}


@pytest.mark.parametrize(
    ("settings", "sizes", "sentence", "warnings"),
    [
        (
            PAPER,
            [(3000, 4000)],
            "images are 4000 x 3000, lite0 looks at 57 % of them, one cell is 94 x 94 camera pixels",
            ("43 % of the picture is never looked at", "one cell is 94 x 94 camera pixels"),
        ),
        (
            PAPER,
            [(256, 256)],
            "images are 256 x 256, lite0 looks at 77 % of them, one cell is 8 x 8 camera pixels",
            ("23 % of the picture",),
        ),
        (
            {"resize": [256, 256]},
            [(3000, 4000)],
            "images are 4000 x 3000, lite0 looks at 100 % of them, one cell is 125 x 94 camera pixels",
            ("one cell is 125 x 94",),
        ),
        (
            {"resize": [256, 256]},
            [(1024, 1024)],
            "images are 1024 x 1024, lite0 looks at 100 % of them, one cell is 32 x 32 camera pixels",
            (),
        ),
        (
            {"resize": 256, "crop": 256},
            [(300, 400), (1000, 1000), (300, 400)],
            "images are 400 x 300 to 1000 x 1000, lite0 looks at 75 to 100 % of them, one cell is 9.4 x 9.4 to "
            "31 x 31 camera pixels",
            ("25 % of the picture",),
        ),
        (
            {"resize": [64, 64]},
            [(64, 64), (66, 64), (64, 128)],
            "images are 64 x 64 to 128 x 64, lite0 looks at 100 % of them, one cell is 8 x 8 to 16 x 8 camera pixels",
            ("images from 64 x 64 to 128 x 64 have different shapes",),
        ),
        (
            {"backbone": "some_network", "taps": ["body.2"], "resize": [64, 64]},
            [(64, 64)],
            "images are 64 x 64, lite0 looks at 100 % of them",
            (),
        ),
    ],
)
def test_one_sentence_says_what_is_seen(
    settings: dict[str, Any], sizes: list[tuple[int, int]], sentence: str, warnings: tuple[str, ...]
) -> None:
    view = View.of(extractor(**settings), sizes)
    assert view.sentence("lite0") == sentence
    said = view.warning().split("; ") if view.warning() else []
    assert len(said) == len(warnings)
    assert all(words in text for words, text in zip(warnings, said, strict=True))
    assert view.facts("lite0", own_images=False) == {"seen": sentence}  # a published protocol is no fault


def test_the_grid_of_a_loaded_backbone_counts() -> None:
    unknown = extractor(backbone="some_network", taps=["body.2"], resize=[64, 64])
    assert View.of(unknown, [(640, 640)], (16, 8)).sentence("it").endswith("one cell is 80 x 40 camera pixels")


def test_no_image_has_no_view() -> None:
    with pytest.raises(ValueError, match="no image"):
        View.of(extractor(**PAPER), [])


def test_the_doctor_measures_how_far_patches_see_beyond_a_region(tmp_path: Path) -> None:
    write_dataset(tmp_path / "images", ["bolt"])
    (tmp_path / "images/roi").mkdir()
    region = np.zeros((64, 64), bool)
    region[:, :40] = True
    Image.fromarray(region).save(tmp_path / "images/roi/bolt.png")
    tree = config_tree(tmp_path)
    tree["extractors"]["lite0"] |= {
        "weights": "bundled",
        "resize": [128, 128],
        "taps": ["blocks.1", "blocks.2", "blocks.4"],
    }
    path = tmp_path / "bench.yaml"
    for more, warns in (({"roi": "roi/{category}.png"}, True), ({}, False)):
        tree["datasets"]["parts"] |= more
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        found = [each for each in examine(load_config(str(path))) if each.subject == "region of parts/lite0"]
        assert [each.healthy for each in found] == [True]
        assert "so far beyond the region, in camera pixels: blocks.1 4 px, blocks.2 12 px" in found[0].message
        assert ("blocks.4 further than half of its input" in found[0].message) == warns
        assert ("; warning: roi_margin is 0, so a defect outside may raise scores inside" in found[0].message) == warns
        tree["extractors"]["lite0"]["taps"] = ["blocks.1", "blocks.2"]
        tree["datasets"]["parts"]["roi_margin"] = 12
    tree["datasets"]["parts"] = {k: v for k, v in tree["datasets"]["parts"].items() if not k.startswith("roi")}
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    assert not [each for each in examine(load_config(str(path))) if each.subject.startswith("region of")]


def test_the_doctor_says_what_is_seen_before_anything_is_indexed(tmp_path: Path) -> None:
    write_dataset(tmp_path / "images", ["bolt", "nut"])
    tree = config_tree(tmp_path)
    tree["extractors"]["lite0"] |= {"resize": 72, "crop": 64}
    path = tmp_path / "bench.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    found = [finding for finding in examine(load_config(str(path))) if finding.subject == "view of parts/lite0"]
    assert [finding.healthy for finding in found] == [True]
    said = "images are 64 x 64, lite0 looks at 79 % of them, one cell is 7.1 x 7.1 camera pixels; warning: bolt: 21 %"
    assert found[0].message.startswith(said)
    assert "; nut: 21 % of the picture is never looked at" in found[0].message
