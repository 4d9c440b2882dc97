"""RAD against loops over images, places and cosines, and its promises about memory, updates and left-out images."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ad_assets.methods import Batch, Runtime
from ad_assets.methods.retrieval.image_retrieval import ImageRetrieval
from ad_assets.methods.retrieval.rad import PRESETS, Rad
from ad_assets.methods.retrieval.rad_level import Level
from ad_assets.methods.retrieval.spade import Spade
from tests.support.tap_features import tap_features

RUNTIME = Runtime()
GRID = (7, 9)
MAP_SIZE = (21, 27)
TOKEN = (1, 1)


def taps(seed: int, images: int, *grids: tuple[int, int]) -> list[torch.Tensor]:
    """Features of any length, around a mean of each place, so that places differ."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.Generator().manual_seed(99)
    return [
        (torch.randn(1, 5, *grid, generator=places) + torch.randn(images, 5, *grid, generator=generator))
        * (torch.rand(images, 1, *grid, generator=generator) * 30 + 0.1)
        for grid in grids
    ]


def scored(method: Rad, nominal: list[torch.Tensor], test: list[torch.Tensor], **options: Any) -> Any:
    features = tap_features(nominal)
    state = method.prepare(method.fit(features, RUNTIME), features, RUNTIME)
    return method.score(state, Batch(test, MAP_SIZE, **options), RUNTIME)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.sqrt(one @ one) / np.sqrt(other @ other))


def along(cells: int, pixels: int) -> np.ndarray:
    """(pixels, cells): bilinear interpolation between middles of cells, constant beyond the outer ones."""
    middles = np.arange(cells) + 0.5
    return np.stack(
        [np.interp((np.arange(pixels) + 0.5) * cells / pixels, middles, cell) for cell in np.eye(cells)], axis=1
    )


def slow_map(
    nominal: list[np.ndarray],
    image: list[np.ndarray],
    token: bool,
    neighbours: int,
    radius: int | None,
    met: Any = None,
) -> np.ndarray:
    """The map of one image (C, h, w) of each tap before it is smoothed.

    Compared with are places in `met`, a set of rows and columns; None: all.
    """
    means = [one.mean(axis=(1, 2)) for one in nominal[-1]]
    order = sorted(range(len(means)), key=lambda n: -cosine(means[n], image[-1].mean(axis=(1, 2))))
    chosen, maps = order[:neighbours], []
    for bank, tap in zip(nominal, image, strict=True) if not token else zip(nominal[:-1], image[:-1], strict=True):
        height, width = tap.shape[1:]
        grid = np.zeros((height, width))
        for y, x in np.ndindex(height, width):
            reach = max(height, width) if radius is None else radius
            near = [
                cosine(bank[n, :, v, u], tap[:, y, x])
                for n in chosen
                for v, u in np.ndindex(height, width)
                if abs(v - y) <= reach and abs(u - x) <= reach and (met is None or (v, u) in met)
            ]
            grid[y, x] = 1 - max(near, default=-1)
        maps.append(along(height, MAP_SIZE[0]) @ grid @ along(width, MAP_SIZE[1]).T)
    return np.mean(maps, axis=0)


@pytest.mark.parametrize(
    ("grids", "neighbours", "radius", "sigma", "share"),
    [
        ((GRID, GRID, TOKEN), 2, 1, 0.0, 0.01),
        ((GRID, TOKEN), 3, 2, 1.5, 0.1),
        ((GRID, (4, 5)), 2, 0, 0.0, 0.002),
        ((GRID, (4, 5)), 150, 1, 0.7, 0.01),
        ((GRID, TOKEN), 1, None, 0.0, 1.0),
    ],
)
def test_scores_are_those_of_loops(
    grids: tuple[tuple[int, int], ...], neighbours: int, radius: int | None, sigma: float, share: float
) -> None:
    nominal, test = taps(0, 4, *grids), taps(1, 2, *grids)
    method = Rad(neighbours=neighbours, radius=radius, sigma=sigma, image_share=share)
    found = scored(method, nominal, test)
    bank = [tap.double().numpy() for tap in nominal]
    for number in range(2):
        image = [tap[number].double().numpy() for tap in test]
        expected = slow_map(bank, image, grids[-1] == TOKEN, neighbours, radius)
        expected = gaussian_filter(expected, sigma) if sigma else expected
        np.testing.assert_allclose(found.maps[number], expected, rtol=1e-3, atol=1e-5)
        highest = np.sort(expected, axis=None)[-max(1, int(expected.size * share)) :]
        assert float(found.image_scores[number]) == pytest.approx(highest.mean(), rel=1e-4)


def test_images_are_retrieved_by_the_class_token_and_not_compared_by_it() -> None:
    nominal, test = taps(0, 4, GRID, TOKEN), taps(1, 1, GRID, TOKEN)
    method = Rad(neighbours=1, sigma=0.0)
    for number in range(4):
        wanted = [test[0], nominal[1][number, None] * 3]
        alone = scored(method, [tap[number, None] for tap in nominal], wanted)
        torch.testing.assert_close(scored(method, nominal, wanted).maps, alone.maps)


@pytest.mark.parametrize("radius", [1, None])
def test_a_small_budget_changes_no_score(radius: int | None) -> None:
    nominal, test = taps(0, 6, GRID, TOKEN), taps(1, 2, GRID, TOKEN)
    features, method = tap_features(nominal), Rad(neighbours=5, radius=radius)
    state = method.prepare(method.fit(features, RUNTIME), features, RUNTIME)
    one_image_each = Runtime(memory_gb=1e-9)
    assert max(1, int(1e-9 * 1e9 / (8 * nominal[0][0].numel()))) == 1
    few, all_at_once = (method.score(state, Batch(test, MAP_SIZE), tools) for tools in (one_image_each, RUNTIME))
    torch.testing.assert_close(few.maps, all_at_once.maps, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("radius", "roi_fit"), [(1, True), (1, False), (None, True)])
def test_what_is_inspected_scores_as_loops_say_and_nothing_else_counts(radius: int | None, roi_fit: bool) -> None:
    nominal, test = taps(0, 4, GRID, TOKEN), taps(1, 2, GRID, TOKEN)
    region = torch.zeros(MAP_SIZE, dtype=torch.bool)
    region[3:12, 6:21] = True  # three by five cells
    inspected = replace(tap_features(nominal), region=region)
    method = Rad(neighbours=2, radius=radius, roi_fit=roi_fit, sigma=0.0, image_share=0.1)
    state = method.prepare(method.fit(inspected, RUNTIME), inspected, RUNTIME)
    found = method.score(state, Batch(test, MAP_SIZE, region=region), RUNTIME)
    bank = [tap.double().numpy() for tap in nominal]
    middles = np.ix_(range(4, 12, 3), range(7, 21, 3))  # pixels in the middle of a cell have its score
    for number in range(2):
        image = [tap[number].double().numpy() for tap in test]
        met = {(y, x) for y in range(1, 4) for x in range(2, 7)} if roi_fit else None
        expected = slow_map(bank, image, True, 2, radius, met)
        np.testing.assert_allclose(found.maps[number].numpy()[middles], expected[middles], rtol=1e-3, atol=1e-5)
        highest = found.maps[number][region].sort(descending=True).values[:13]  # of 135
        assert float(found.image_scores[number]) == pytest.approx(float(highest.mean()), rel=1e-5)
        assert (found.maps[number][~region] == found.maps[number][region].min()).all()


def test_an_update_ends_where_a_fit_of_all_does() -> None:
    whole = tap_features(taps(0, 5, GRID, TOKEN))
    ids, method = whole.image_ids, Rad()
    first, second = (type(whole)(tuple(some), whole.load) for some in (ids[::2], ids[1::2]))
    updated, fitted = method.update(method.fit(first, RUNTIME), second, RUNTIME), method.fit(whole, RUNTIME)
    assert updated.info() == fitted.info()
    assert torch.equal(updated.pooled, fitted.pooled)


@pytest.mark.parametrize("method", [Rad(neighbours=3), Spade(neighbours=3)])
def test_images_of_several_categories_joined_are_a_fit_of_all(method: ImageRetrieval) -> None:
    nominal, test = taps(0, 6, GRID, GRID), taps(1, 2, GRID, GRID)
    whole = tap_features(nominal)
    parts = [replace(whole, image_ids=some) for some in (whole.image_ids[::2], whole.image_ids[1:3])]
    joint, fitted = (
        method.join([method.fit(part, RUNTIME) for part in parts]),
        method.fit(replace(whole, image_ids=tuple(sorted({*whole.image_ids[::2], *whole.image_ids[1:3]}))), RUNTIME),
    )
    assert joint.info() == fitted.info()
    assert torch.equal(joint.pooled, fitted.pooled)
    # Prepared with the images of one category at hand, it reads those of all.
    alone, of_all = (method.prepare(state, parts[0], RUNTIME) for state in (joint, fitted))
    assert len(alone.vectors[0]) == 4
    maps = [method.score(state, Batch(test, MAP_SIZE), RUNTIME).maps for state in (alone, of_all)]
    assert torch.equal(*maps)
    with pytest.raises(ValueError, match=r"described by \[5, 7\] values"):
        method.join([joint, replace(joint, pooled=torch.zeros(4, 7))])


def test_an_image_is_left_out_as_if_it_had_not_been_there() -> None:
    nominal = taps(0, 5, GRID, TOKEN)
    method = Rad(neighbours=3)
    ids = tap_features(nominal).image_ids
    left_out = scored(method, nominal, nominal, image_ids=ids, left_out=True)
    for number in range(5):
        others = [torch.cat([tap[:number], tap[number + 1 :]]) for tap in nominal]
        alone = scored(method, others, [tap[number, None] for tap in nominal])
        torch.testing.assert_close(left_out.maps[number], alone.maps[0])
        torch.testing.assert_close(left_out.image_scores[number], alone.image_scores[0])


def test_features_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="score with the extractor that they are from"):
        scored(Rad(), taps(0, 3, GRID, TOKEN), taps(1, 1, (7, 8), TOKEN))


def test_presets_are_the_published_commands() -> None:
    visa, mvtec = (Rad(**PRESETS[name]) for name in ("visa", "mvtec_ad"))
    assert (visa.neighbours, visa.radius, mvtec) == (900, 2, Rad())
    assert Rad(sigma=1.75).at_step(4).sigma == 1.75 / 4


@pytest.mark.parametrize("radius", [0, 2, None])
@pytest.mark.parametrize("inspected", [False, True])
@pytest.mark.parametrize("budget", [1.0, 2e-6])
def test_some_places_are_compared_as_all_are(radius: int | None, inspected: bool, budget: float) -> None:
    generator = torch.Generator().manual_seed(3)
    queries, bank = (
        torch.nn.functional.normalize(torch.randn(count, 63, 5, generator=generator), dim=2) for count in (2, 8)
    )
    bank = bank.transpose(0, 1).contiguous().transpose(0, 1)
    met = torch.arange(63) % 9 > 3 if inspected else None
    level = Level(queries, bank, GRID, radius, met, budget)
    images, places = torch.tensor([1, 2, 4, 7]), torch.tensor([0, 8, 20, 31, 54, 62])
    some, every = level.distances_at(1, images, places), level.distances(1, images)
    torch.testing.assert_close(some, every[places], rtol=0, atol=1e-6)


@pytest.mark.parametrize("inspected", [False, True])
@pytest.mark.parametrize("radius", [0, 1, 3, None])
def test_a_few_images_are_compared_as_many_are(radius: int | None, inspected: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    bank, queries = (torch.randn(n, 20, 6, generator=generator) for n in (9, 3))
    bank, queries = (torch.nn.functional.normalize(each, dim=2) for each in (bank, queries))
    bank = bank.transpose(0, 1).contiguous().transpose(0, 1)
    met = torch.rand(20, generator=generator) < 0.4 if inspected else None
    level = Level(queries, bank, (4, 5), radius, met, 1.0)
    groups = [torch.tensor([1, 4, 7]), torch.tensor([], dtype=torch.int64), torch.tensor([8])]
    for row in range(3):
        found = level.distances_to_few(row, groups)
        assert found[1].isinf().all()
        for number in (0, 2):
            torch.testing.assert_close(found[number], level.distances(row, groups[number]), rtol=0, atol=1e-6)
