"""A region of interest in every registered method, against what the method says without one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ad_assets.backbones.backbone import Backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.datasets.region_of_interest import without_margin
from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import METHODS, Batch, Features, Method, Runtime
from ad_assets.methods.ensemble import fuse
from ad_assets.methods.region_of_interest import InspectedGrid, inspected_cells, learnt_places, without_outside
from tests.methods.test_registry import CASES, MAP_SIZE, NOMINAL, TEST
from tests.support.tap_features import tap_features

RUNTIME = Runtime()
SHARP = {"sigma": 0.0, "image_sigma": 0.0, "map_sigma": 0.0}  # maps that smoothing spreads nothing in
SMALL = {"pre_dimensions": 16, "dimensions": 16, "coreset_ratio": 1.0}
REWEIGHTED = [("patchcore", {**SMALL, "image_score": "reweighted"})]
POOLED = [("hetmm", {"windows": (3, 3), "image_score": "mean_of_max_pool", "image_pool": 4})]
FITS = [  # what can learn inside alone
    ("patchcore", {"pooling": "concat", "coreset_ratio": 1.0}),
    ("patchcore", {"pooling": "concat", "coreset_ratio": 0.5}),
    ("patchcore", {"pooling": "concat", "coreset_ratio": 0.5, "subsampling": "random"}),
    ("patchcore_lof", {"pooling": "concat", "neighbours": 5}),
    ("spade", {"neighbours": 3}),
    ("superadd", {"max_rows": None}),
    ("rad", {"neighbours": 3, "radius": None}),
    ("rad", {"neighbours": 3}),
    ("hetmm", {"windows": (3, 3)}),
    ("simplenet", {"pooling": "concat", "hidden_units": 8, "epochs": 2, "held_out": 0.2}),
]


def _region() -> Tensor:
    """Pixels of 16 of the 64 cells of the first tap, of 4 x 4 pixels each, and one more of a cell below them."""
    region = torch.zeros(MAP_SIZE, dtype=torch.bool)
    region[8:24, 8:24] = True
    region[24, 9] = True
    return region


REGION = _region()


def _method(name: str, options: dict[str, Any], **more: Any) -> Method[Any]:
    fields = METHODS[name].model_fields
    return METHODS[name](**{**{key: value for key, value in SHARP.items() if key in fields}, **options, **more})


def _fitted(method: Method[Any], features: Features) -> Any:
    return method.prepare(method.fit(features, RUNTIME), features, RUNTIME)


def _features(taps: list[Tensor] | None = None) -> Features:
    return replace(tap_features(NOMINAL if taps is None else taps), region=REGION)


def _spoilt(taps: list[Tensor], reach: int = 2) -> list[Tensor]:
    """The taps with nonsense in all cells that lie more than `reach` - 1 cells away from the region."""
    grown = torch.nn.functional.max_pool2d(REGION[None, None].float(), 2 * 4 * (reach - 1) + 1, 1, 4 * (reach - 1))
    found = []
    for tap in taps:
        outside = ~inspected_cells(grown[0, 0] > 0, tap.shape[2:])
        noise = 100 * torch.randn(tap.shape, generator=torch.Generator().manual_seed(9))
        found.append(torch.where(outside, noise, tap))
    return found


@pytest.mark.parametrize(
    ("size", "grid", "pixels", "cells"),
    [
        ((8, 8), (2, 2), [(3, 3)], [(0, 0)]),  # the last pixel of a cell, and the first one of the next
        ((8, 8), (2, 2), [(3, 4)], [(0, 1)]),
        ((8, 8), (2, 2), [(4, 4)], [(1, 1)]),
        ((5, 5), (2, 2), [(2, 2)], [(0, 0), (0, 1), (1, 0), (1, 1)]),  # a pixel that a border runs through
        ((6, 4), (3, 2), [(1, 1), (2, 2)], [(0, 0), (1, 1)]),
        ((4, 4), (8, 8), [(1, 2)], [(2, 4), (2, 5), (3, 4), (3, 5)]),  # cells smaller than a pixel
    ],
)
def test_a_cell_is_inspected_if_any_pixel_that_it_covers_is(
    size: tuple[int, int], grid: tuple[int, int], pixels: list[tuple[int, int]], cells: list[tuple[int, int]]
) -> None:
    region = torch.zeros(size, dtype=torch.bool)
    for pixel in pixels:
        region[pixel] = True
    found = inspected_cells(region, grid)
    assert [tuple(cell) for cell in found.nonzero().tolist()] == cells
    assert learnt_places(region, grid).tolist() == [row * grid[1] + column for row, column in cells]
    assert learnt_places(None, grid).tolist() == list(range(grid[0] * grid[1]))


def test_a_region_without_a_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="the region of interest is empty"):
        InspectedGrid(torch.zeros(8, 8, dtype=torch.bool), (2, 2))


def test_cells_outside_take_the_value_of_the_nearest_inspected_one() -> None:
    region = torch.zeros(4, 8, dtype=torch.bool)
    region[0, 1] = region[3, 6] = True
    grid = InspectedGrid(region, (4, 8))
    values = torch.arange(32.0)[None]
    filled = grid.filled(values).reshape(4, 8)
    assert set(filled.flatten().tolist()) == {1.0, 30.0}
    assert filled[0, 0] == filled[0, 1] == filled[2, 0] == 1
    assert filled[3, 7] == filled[1, 7] == 30
    assert grid.places(torch.tensor([8, 31])).tolist() == [1, 30]
    assert torch.equal(InspectedGrid(None, (4, 8)).filled(values), values)


def test_outside_a_map_has_its_lowest_inspected_score() -> None:
    maps = torch.tensor([[[5.0, 3.0], [9.0, 1.0]], [[-2.0, -4.0], [0.0, 7.0]]])
    region = torch.tensor([[True, True], [False, False]])
    assert without_outside(maps, region).tolist() == [[[5, 3], [3, 3]], [[-2, -4], [-4, -4]]]
    assert without_outside(maps, None) is maps


@pytest.mark.parametrize(("name", "options"), [*CASES, *REWEIGHTED, *POOLED])
def test_the_score_is_that_of_the_inside_and_nothing_outside_changes_it(name: str, options: dict[str, Any]) -> None:
    method = _method(name, options)
    state = _fitted(method, _features())
    inside = method.score(state, Batch(TEST, MAP_SIZE, region=REGION), RUNTIME)
    spoilt = method.score(state, Batch(_spoilt(TEST), MAP_SIZE, region=REGION), RUNTIME)
    whole = method.score(state, Batch(_spoilt(TEST), MAP_SIZE), RUNTIME)
    if name == "anomalydino":  # cosine distances are bounded: what is spoilt need not be the highest, but it scores
        untouched = method.score(state, Batch(TEST, MAP_SIZE), RUNTIME)
        assert ((whole.maps - untouched.maps).abs()[:, ~REGION].amax(dim=1) > 0.1).all()
    elif name != "spade":  # which compares whole images by a mean
        assert (whole.maps.amax(dim=(1, 2)) > inside.maps.amax(dim=(1, 2))).all()  # it would have alarmed
    torch.testing.assert_close(spoilt.image_scores, inside.image_scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(spoilt.maps, inside.maps, rtol=1e-5, atol=1e-6)
    for result in (inside, spoilt):
        lowest = result.maps[:, REGION].amin(dim=1)
        assert torch.equal(result.maps[:, ~REGION], lowest[:, None].expand(-1, int((~REGION).sum())))
        assert result.maps.isfinite().all()


SIDE, DEEP, REACH = 256, ("blocks.3", "blocks.4"), 112  # what `reach_of` says of the deeper one


@pytest.fixture(scope="module")
def seen() -> dict[str, list[Tensor]]:
    """Deep features of good pictures to learn, of others, and of these with a defect in columns 200 to 231."""
    backbone = Backbone.load(
        Extractor(backbone="tf_efficientnet_lite0", weights="bundled", taps=DEEP, resize=(SIDE, SIDE))
    )

    def taps(seeds: range, *, defect: bool = False) -> list[Tensor]:
        pictures = []
        for seed in seeds:
            random = np.random.default_rng(seed)
            coarse = np.kron(random.normal(0, 12, (SIDE // 8, SIDE // 8, 1)), np.ones((8, 8, 3)))
            pixels = 128 + coarse + random.normal(0, 6, (SIDE, SIDE, 3))
            if defect:
                pixels[80:120, 200:232] = 255
            pictures.append(backbone.preprocess(np.clip(pixels, 0, 255).astype(np.uint8)))
        return backbone.extract(torch.stack(pictures))

    return {"learnt": taps(range(12)), "good": taps(range(50, 56)), "defect": taps(range(50, 56), defect=True)}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_with_a_margin_a_defect_right_outside_raises_no_alarm_however_deep_the_taps(
    name: str, options: dict[str, Any], seen: dict[str, list[Tensor]]
) -> None:
    drawn = np.zeros((SIDE, SIDE), bool)
    drawn[:, :200] = True
    method = METHODS[name](**options)
    alarms, scores = {}, {}
    for margin in (0, REACH):
        region = torch.from_numpy(without_margin(drawn, margin))
        features = replace(tap_features(seen["learnt"]), region=region)
        state = method.fit(features, RUNTIME)
        scorer = Scorer(method, state, features, None, (SIDE, SIDE), RUNTIME, region=region)
        threshold = max(scorer.nominal(features, len(features)).scores)
        for what in ("good", "defect"):
            batch = Batch(seen[what], (SIDE, SIDE), region=region)
            scores[what, margin] = method.score(scorer.state, batch, RUNTIME).image_scores
            alarms[what, margin] = int((scores[what, margin] > threshold).sum())
    assert alarms["defect", REACH] <= alarms["good", REACH]
    assert (scores["defect", REACH] - scores["good", REACH]).max() < 0.25 * scores["good", REACH].std()
    if name not in ("fod", "simplenet"):  # trained in a moment, these see little of a defect anywhere
        assert alarms["defect", 0] > alarms["good", 0]


@pytest.mark.parametrize(("name", "options"), [case for case in CASES if case[0] not in ("fod", "rad", "spade")])
def test_patches_inside_score_as_they_do_without_a_region(name: str, options: dict[str, Any]) -> None:
    """The oracle: the largest score without a region over the places inside it, at the resolution of the patches."""
    method = _method(name, options, **({"alpha": 1.0} if name == "hetmm" else {}))  # forwards alone
    grid = (8, 8) if name != "hetmm" else MAP_SIZE  # whose layers meet at the resolution of the map
    region = REGION if name == "hetmm" else torch.nn.functional.max_pool2d(REGION[None].float(), 4)[0] > 0
    # SuperADD's deeper scores are resized, which mixes those of both sides: one tap.
    nominal, test = (taps[:1] if name == "superadd" else taps for taps in (NOMINAL, TEST))
    state = _fitted(method, tap_features(nominal))
    whole = method.score(state, Batch(test, grid), RUNTIME)
    inside = method.score(state, Batch(test, grid, region=region), RUNTIME)
    if name == "hetmm":  # a pixel's corners are aligned, so that those at the border mix cells of both sides
        core = torch.zeros_like(region)
        core[12:20, 12:20] = True
        torch.testing.assert_close(inside.maps[:, core], whole.maps[:, core], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(inside.image_scores, inside.maps[:, region].amax(dim=1))
        return
    torch.testing.assert_close(inside.maps[:, region], whole.maps[:, region], rtol=1e-6, atol=0)
    if name != "patchcluster":  # whose image score has a weight, of the neighbourhood of the largest
        torch.testing.assert_close(inside.image_scores, whole.maps[:, region].amax(dim=1), rtol=1e-6, atol=0)


def test_a_weighted_image_score_is_of_the_largest_patch_inside() -> None:
    """With the outside taken from an image by hand: all of its cells are copies of one inside."""
    for name, options in (*REWEIGHTED, CASES_BY_NAME["patchcluster"]):
        method = _method(name, {**options, "patch_size": 1})
        state = _fitted(method, tap_features([NOMINAL[0]]))
        inside = method.score(state, Batch([TEST[0]], MAP_SIZE, region=REGION), RUNTIME)
        copied = InspectedGrid(REGION, (8, 8)).filled(TEST[0].flatten(2).transpose(1, 2))
        alone = method.score(state, Batch([copied.transpose(1, 2).reshape(TEST[0].shape)], MAP_SIZE), RUNTIME)
        torch.testing.assert_close(inside.image_scores, alone.image_scores, rtol=1e-5, atol=1e-6)


CASES_BY_NAME = {name: (name, options) for name, options in CASES}


def test_spade_compares_images_by_what_is_inspected_of_them() -> None:
    method = _method("spade", {"neighbours": 2, "sigma": 0.0})
    result = method.score(_fitted(method, _features()), Batch(TEST, MAP_SIZE, region=REGION), RUNTIME)
    cells = inspected_cells(REGION, (4, 4))
    nominal, test = (taps[1][:, :, cells].mean(dim=2) for taps in (NOMINAL, TEST))
    nearest = torch.cdist(test, nominal).topk(2, largest=False).values.mean(dim=1)
    torch.testing.assert_close(result.image_scores, nearest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), FITS)
def test_what_lies_outside_is_not_learnt_where_that_is_asked_for(name: str, options: dict[str, Any]) -> None:
    method = _method(name, options, roi_fit=True, **({"patch_size": 1} if "pooling" in options else {}))
    spoilt = _spoilt(NOMINAL, reach=1)
    # Deeper taps are resized, which mixes cells: one tap, whose cells are apart.
    nominal, test = ([NOMINAL[0]], [TEST[0]]) if name not in ("hetmm", "spade") else (NOMINAL, TEST)
    spoilt = spoilt[: len(nominal)]
    if name == "spade":
        nominal, test, spoilt = [NOMINAL[0]] * 2, [TEST[0]] * 2, [spoilt[0]] * 2
    batch = Batch(test, MAP_SIZE, region=REGION)
    results = [method.score(_fitted(method, _features(taps)), batch, RUNTIME) for taps in (nominal, spoilt)]
    torch.testing.assert_close(results[0].maps, results[1].maps, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0].image_scores, results[1].image_scores, rtol=1e-5, atol=1e-6)


def test_a_bank_of_the_inside_grows_and_leaves_out_as_any_other() -> None:
    method = METHODS["patchcore"](pooling="concat", coreset_ratio=1.0, roi_fit=True)
    features = _features()
    state = method.fit(features, RUNTIME)
    assert sorted(set(state.place.tolist())) == learnt_places(REGION, (8, 8)).tolist()
    half = method.fit(replace(features, image_ids=features.image_ids[:3]), RUNTIME)
    grown = method.update(half, replace(features, image_ids=features.image_ids[3:]), RUNTIME)
    assert torch.equal(grown.rows, state.rows)
    assert torch.equal(grown.place, state.place)
    ids = features.image_ids
    left_out = method.score(state, Batch(NOMINAL, MAP_SIZE, ids, left_out=True, region=REGION), RUNTIME)
    assert (left_out.image_scores > 0).all()
    ((_, matches),) = method.match(state, replace(features, batch_size=9), RUNTIME)
    assert np.allclose(matches["distances"][:, learnt_places(REGION, (8, 8)), 0], 0)


def test_addresses_without_the_option_are_those_of_before() -> None:
    for name in ("patchcore", "spade", "hetmm", "simplenet"):
        before, after = METHODS[name](), METHODS[name](roi_fit=True)
        stages = [stage for stage in ("fit", "match", "score") if "roi_fit" in after.stage_config(stage)]
        assert len(stages) == 1
        assert not any("roi_fit" in before.stage_config(stage) for stage in ("fit", "match", "score"))


def test_no_fused_score_outside_is_above_one_inside() -> None:
    generator = torch.Generator().manual_seed(3)
    maps = [without_outside(torch.randn(4, *MAP_SIZE, generator=generator) * scale, REGION) for scale in (1, 50)]
    fused = fuse(maps, [each.amax(dim=(1, 2)) for each in maps], [torch.randn(9, generator=generator) for _ in maps])
    assert (fused.maps[:, ~REGION].amax(dim=1) <= fused.maps[:, REGION].amin(dim=1)).all()
