"""Tiles: nothing lost, nothing counted twice, no seam beyond what a network sees, and clear refusals."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from ad_assets.backbones.backbone import Backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.tiles import Tiles

LITE: dict[str, Any] = {"backbone": "tf_efficientnet_lite0", "weights": "bundled", "taps": ["/8", "/16"]}


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def features(backbone: Backbone, rgb: np.ndarray) -> list[torch.Tensor]:
    return backbone.extract(backbone.preprocess(rgb)[None])


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 4), st.sampled_from([8, 16, 32]))
def test_every_cell_comes_from_one_tile_that_holds_it(cells: int, tile: int, shared: int, grid: int) -> None:
    tiles = Tiles(size=tile * grid, overlap=min(shared, tile // 2) * grid)
    length = cells * grid
    spans = tiles.along(length, grid)
    size = min(tiles.size, length)
    assert [span.first for span in spans] == [0, *(span.last for span in spans[:-1])]
    assert spans[-1].last == length
    for span in spans:
        assert span.start % grid == span.first % grid == 0
        assert 0 <= span.start <= span.first < span.last <= span.start + size <= length
    for before, after in pairwise(spans):
        # The cut lies in the middle of what both have seen, to a cell.
        shared_pixels = before.start + size - after.start
        assert shared_pixels >= tiles.overlap
        assert abs((before.last - after.start) - (before.start + size - before.last)) <= 2 * grid
    assert tiles.count(length, length) == len(spans) ** 2


class Convolutions(nn.Module):
    """Two convolutions of stride 2: a cell sees 1 and 3 pixels around its own place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 5, 3, 2, 1)
        self.feature_info = [
            {"module": "first", "reduction": 2, "num_chs": 4},
            {"module": "second", "reduction": 4, "num_chs": 5},
        ]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for each in (self.first, self.second):
                nn.init.normal_(each.weight)
                nn.init.normal_(each.bias)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(torch.relu(self.first(batch)))
        return result


def convolutional(**options: Any) -> Backbone:
    made = Extractor(backbone="two_convolutions", weights="random(0)", taps=("/2", "/4"), **options)
    return Backbone(Convolutions(), made, "cpu")


def differs(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Where two maps differ by more than the rounding of sums of this size."""
    return (one - other).abs() > 2**-20 * one.abs().max()


@settings(max_examples=15)
@given(st.integers(3, 20), st.integers(3, 20), st.integers(6, 10))
def test_no_seam_is_left_where_tiles_share_what_the_network_sees(rows: int, columns: int, tile: int) -> None:
    size = [4 * rows, 4 * columns]
    whole = convolutional(resize=size)
    tiled = convolutional(resize=size, tiles={"size": 4 * tile, "overlap": 8})
    rgb = picture(*size)
    for one, other in zip(features(whole, rgb), features(tiled, rgb), strict=True):
        assert not differs(one, other).any()


def test_without_overlap_a_seam_is_as_wide_as_what_the_network_sees() -> None:
    one, other = (
        features(convolutional(resize=[64, 64], **tiles), picture(64, 64))[1][0]
        for tiles in ({}, {"tiles": {"size": 32, "overlap": 0}})
    )
    # A cell sees 3 pixels to each side of its corner, hence the cells after a seam see beyond it.
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[8], expected[:, 8] = True, True
    assert torch.equal(differs(one, other).any(dim=0), expected)


@pytest.fixture(scope="module")
def tiled() -> Backbone:
    return Backbone.load(Extractor(**LITE, resize=[112, 144], tiles={"size": 64, "overlap": 32}))


def test_stitched_features_are_those_of_the_tile_alone(tiled: Backbone) -> None:
    alone, rgb = Backbone.load(Extractor(**LITE, resize=[64, 64])), picture(112, 144)
    stitched = features(tiled, rgb)
    assert [tuple(tap.shape[1:]) for tap in stitched] == tiled.tap_shapes == [(40, 14, 18), (112, 7, 9)]
    made = tiled.extractor
    assert made.tiles
    rows, columns = (made.tiles.along(side, made.grid) for side in made.input_size)
    assert [span.start for span in rows] == [0, 32, 48]  # the last one is moved inwards
    assert len(rows) * len(columns) == 12
    for row in rows:
        for column in columns:
            own = features(alone, rgb[row.start : row.start + 64, column.start : column.start + 64])
            for tap, part, step in zip(stitched, own, (8, 16), strict=True):
                (down, within_rows), (across, within_columns) = row.kept(step), column.kept(step)
                assert torch.equal(tap[0, :, down, across], part[0, :, within_rows, within_columns])


def test_a_tile_as_large_as_the_image_is_the_image() -> None:
    rgb = picture(64, 96)
    whole = Backbone.load(Extractor(**LITE, resize=[64, 96]))
    one_tile = Backbone.load(Extractor(**LITE, resize=[64, 96], tiles={"size": 128, "overlap": 32}))
    assert all(map(torch.equal, features(one_tile, rgb), features(whole, rgb)))


def test_a_batch_of_images_has_the_features_of_each(tiled: Backbone) -> None:
    images = [picture(112, 144), picture(112, 144)[::-1].copy()]
    seen = tiled.images_seen
    batch = tiled.extract(torch.stack([tiled.preprocess(rgb) for rgb in images]))
    assert tiled.images_seen == seen + 2
    for number, rgb in enumerate(images):
        assert all(torch.equal(tap[number], own[0]) for tap, own in zip(batch, features(tiled, rgb), strict=True))


def test_float16_halves_what_is_stored_and_moves_little(tiled: Backbone) -> None:
    half = Backbone.load(Extractor(**LITE, resize=[112, 144], tiles={"size": 64, "overlap": 32}, storage="float16"))
    rgb = picture(112, 144)
    for own, full in zip(features(half, rgb), features(tiled, rgb), strict=True):
        assert own.dtype == torch.float16
        torch.testing.assert_close(own.float(), full, rtol=2**-11, atol=1e-7)


def test_only_what_is_set_is_part_of_the_identity() -> None:
    plain = Extractor(**LITE, resize=[64, 64])
    assert not {"tiles", "storage"} & plain.identity().keys()
    assert Extractor(**LITE, resize=[64, 64], storage="float16").identity()["storage"] == "float16"
    assert Extractor(**LITE, resize=[64, 64], tiles={"size": 64, "overlap": 16}).identity()["tiles"] == {
        "size": 64,
        "overlap": 16,
    }
    assert hash(plain) == hash(Extractor(**LITE, resize=[64, 64]))


def test_maps_have_the_grid_of_the_first_tap_and_batches_count_tiles() -> None:
    plain = Extractor(**LITE, resize=[3008, 4000])
    assert (plain.map_size, plain.map_step, plain.images_a_batch(16)) == ((3008, 4000), 1, 16)
    large = Extractor(**LITE, resize=[3008, 4000], tiles={"size": 512, "overlap": 64})
    assert (large.map_size, large.map_step, large.frame_size) == ((376, 500), 8, (512, 512))
    assert large.map_geometry == ((376, 500), None)
    assert large.images_a_batch(16) == 1  # of 63 tiles
    assert large.images_a_batch(130) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": 256, "crop": 224}, r"leave out crop and write resize: \[height, width\]"),
        ({"resize": [3000, 4000]}, "resize: height 3000 is no multiple of 16.* write 2992 or 3008"),
        ({"resize": [64, 72]}, "resize: width 72 is no multiple of 16"),
        ({"resize": [64, 64], "tiles": {"size": 40, "overlap": 0}}, "tiles.size 40 is no multiple of 16"),
        ({"resize": [64, 64], "tiles": {"size": 64, "overlap": 8}}, "tiles.overlap 8 is no multiple .* write 16"),
        ({"resize": [64, 64], "tiles": {"size": 64, "overlap": 48}}, "overlap: 48 is more than half"),
        ({"resize": [64, 64], "backbone": "other", "taps": ["body.2"]}, "the reduction of body.2 is not known"),
    ],
)
def test_tiles_that_do_not_fit_are_refused_with_the_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Extractor.model_validate({**LITE, "weights": "random(0)", "tiles": {"size": 64, "overlap": 16}, **options})


def test_a_tap_that_does_not_divide_a_tile_is_refused() -> None:
    model = Convolutions()
    model.second.padding = (0, 0)
    made = Extractor(
        backbone="two_convolutions",
        weights="random(0)",
        taps=("/2", "/4"),
        resize=(64, 64),
        tiles=Tiles(size=32, overlap=8),
    )
    with pytest.raises(ValueError, match="/4 makes 7x7 cells of a tile of 32x32, which do not fit together"):
        Backbone(model, made, "cpu")
