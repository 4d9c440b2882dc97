"""Pixel-level template selection against the equations in loops, the recorded selections, and its promises."""

from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.cluster import OPTICS

from ad_assets.kernels.parallel import threads as current_threads
from ad_assets.kernels.parallel import use_threads
from ad_assets.kernels.prototypes import prototypes
from ad_assets.methods.hetmm import template_selection as pts
from ad_assets.methods.hetmm.template_selection import Selection, kmeans_members, select, select_with_clusters
from tests.support.emulated_device import cuda_device
from tests.support.fixtures import fixture

SELECTIONS = get_args(Selection)


def templates_of(seed: int, images: int = 31, grid: tuple[int, int] = (3, 4), spread: float = 0.25) -> torch.Tensor:
    """(N, 8, H, W): four dense regions a pixel and some vectors of their own."""
    generator = torch.Generator().manual_seed(seed)
    pixels = grid[0] * grid[1]
    centres = torch.randn(pixels, 4, 8, generator=generator)
    member = torch.randint(4, (pixels, images, 1), generator=generator).expand(-1, -1, 8)
    vectors = centres.gather(1, member) + spread * torch.randn(pixels, images, 8, generator=generator)
    vectors[:, ::6] = torch.randn(vectors[:, ::6].shape, generator=generator)
    unit = torch.nn.functional.normalize(vectors, dim=2)
    return unit.permute(1, 2, 0).unflatten(2, grid).contiguous()


def grams_of(templates: torch.Tensor) -> torch.Tensor:
    vectors = templates.flatten(2).permute(2, 0, 1).double()
    return vectors @ vectors.mT


def slow_prototypes(gram: np.ndarray, labels: list[int], sheets: int, selection: str) -> list[int]:
    """Equations 7, 8 and 9 of one pixel."""
    everything = range(len(gram))
    picks: list[int] = []
    for label in dict.fromkeys(label for label in labels if label >= 0):
        region = [i for i in everything if labels[i] == label]
        if len(picks) < sheets:
            picks.append(max(region, key=lambda i: sum(gram[i, j] for j in region)))
    if not picks:
        picks.append(max(everything, key=lambda i: sum(gram[i, j] for j in everything)))
    while len(picks) < sheets:
        allowed = everything if selection == "repeats" else [i for i in everything if i not in picks]
        join = min if selection == "maxmin" else sum
        picks.append(max(allowed, key=lambda i: join(1 - gram[i, j] for j in picks)))
    return picks


@pytest.mark.parametrize("selection", ["sum", "maxmin", "repeats"])
@pytest.mark.parametrize("sheets", [1, 3, 9, 30])
def test_equations_in_loops(selection: Selection, sheets: int) -> None:
    templates = templates_of(sheets)
    picks, clusters = select_with_clusters(templates, sheets, selection=selection)
    assert picks.dtype == torch.int64
    assert picks.shape == (sheets, 3, 4)
    assert clusters is not None
    for pixel, gram in enumerate(grams_of(templates).numpy()):
        distances = np.maximum(1 - gram, 0)
        np.fill_diagonal(distances, 0)
        labels = OPTICS(min_samples=max(2, 31 // sheets), metric="precomputed").fit(distances).labels_.tolist()
        at = np.unravel_index(pixel, (3, 4))
        assert picks[:, at[0], at[1]].tolist() == slow_prototypes(gram, labels, sheets, selection)
        assert int(clusters[at]) == max(labels) + 1
    repeated = [len(set(pixel.tolist())) < sheets for pixel in picks.flatten(1).T]
    assert any(repeated) == (selection == "repeats" and sheets > 3)


def test_recorded_selections() -> None:
    data = fixture("pts")
    templates, sheets = torch.from_numpy(data["templates"]), int(data["K"])
    grams = grams_of(templates)
    labels = torch.from_numpy(data["labels"]).long().flatten(1).T
    picks, clusters = select_with_clusters(templates, sheets)
    np.testing.assert_array_equal(picks, data["selected"])
    assert clusters is not None
    np.testing.assert_array_equal(clusters, data["labels"].max(axis=0) + 1)
    for few, many, regions in (("K_small", "selected_small", labels), ("K", "selected_no_cluster", labels * 0 - 1)):
        result = prototypes(grams, regions, int(data[few]))
        np.testing.assert_array_equal(result.T.reshape(data[many].shape), data[many])


@pytest.mark.parametrize(("selection", "expected"), [("sum", [0, 1, 4, 5, 3, 2]), ("maxmin", [0, 1, 4, 2, 3, 5])])
def test_ties_go_to_the_first_image(selection: Selection, expected: list[int]) -> None:
    """Copies of three vectors: region 1 appears first, then the farthest copies in the order of the images."""
    north, east, west = [0.0, 1.0], [1.0, 0.0], [-0.6, -0.8]
    vectors = torch.tensor([north, east, east, north, west, west], dtype=torch.float64)
    grams = (vectors @ vectors.T + 1e-15 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[None]
    picks = prototypes(grams, torch.tensor([[1, 0, 0, 1, -1, -1]]), 6, selection)
    assert picks.tolist() == [expected]


@pytest.mark.parametrize("selection", ["sum", "maxmin", "repeats"])
def test_order_of_images_does_not_matter_given_the_regions(selection: Selection) -> None:
    """OPTICS itself starts at the first image, so its regions may depend on the order; what follows does not."""
    grams = grams_of(templates_of(5))
    labels = torch.randint(-1, 4, (12, 31), generator=torch.Generator().manual_seed(0))
    order = torch.randperm(31, generator=torch.Generator().manual_seed(1))
    picks = prototypes(grams, labels, 12, selection)
    shuffled = prototypes(grams[:, order][:, :, order], labels[:, order], 12, selection)
    assert torch.equal(order[shuffled].sort(dim=1).values, picks.sort(dim=1).values)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_memory_threads_and_other_pixels_change_nothing(monkeypatch, selection: Selection) -> None:
    templates = templates_of(2, grid=(5, 7))
    told: list[tuple[int, int]] = []
    picks, clusters = select_with_clusters(templates, 7, selection=selection, seed=3)
    chunked, same_clusters = select_with_clusters(
        templates, 7, selection=selection, seed=3, memory_gb=2e-4, report=lambda *done: told.append(done)
    )
    assert torch.equal(picks, chunked)
    if clusters is None:
        assert same_clusters is None
    else:
        assert torch.equal(clusters, same_clusters)
    if "random" not in selection:
        assert len(told) > 3
        assert told[-1] == (35, 35)
    threads = current_threads()
    try:
        use_threads(1)
        assert torch.equal(select(templates, 7, selection=selection, seed=3), picks)
    finally:
        use_threads(threads)
    if not selection.startswith("image") and "random" not in selection:
        assert torch.equal(select(templates[:, :, :2], 7, selection=selection, seed=3), picks[:, :2])


@pytest.mark.parametrize("selection", ["sum", "image_kmeans", "pixel_kmeans"])
def test_a_device_computes_products_in_blocks_of_pixels(selection: Selection) -> None:
    templates = templates_of(2, grid=(10, 13))
    expected = select_with_clusters(templates, 7, selection=selection, seed=3)
    with cuda_device() as device:
        for memory_gb in (0.003, 1.0):  # a block or two at a time, and all
            found = select_with_clusters(templates, 7, selection=selection, seed=3, device=device, memory_gb=memory_gb)
            assert torch.equal(found[0], expected[0])
            assert (found[1] is None) == (expected[1] is None)
            assert found[1] is None or torch.equal(found[1], expected[1])


def test_the_rounding_of_another_device_changes_hardly_any_pixel() -> None:
    templates = templates_of(1, images=60, grid=(12, 12))
    noise = 1e-7 * torch.randn(templates.shape, generator=torch.Generator().manual_seed(0))
    other = torch.nn.functional.normalize(templates * (1 + noise), dim=1)
    before, after = (select(each, 15).sort(dim=0).values for each in (templates, other))
    assert (before != after).any(dim=0).float().mean() <= 0.01


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("sheets", [5, 6, 40])
def test_as_many_sheets_as_images_keep_all(selection: Selection, sheets: int) -> None:
    picks, clusters = select_with_clusters(templates_of(0, images=5), sheets, selection=selection)
    assert torch.equal(picks, torch.arange(5).view(5, 1, 1).expand(5, 3, 4))
    assert clusters is None


@pytest.mark.parametrize("selection", [name for name in SELECTIONS if "random" in name or "kmeans" in name])
@pytest.mark.parametrize("sheets", [1, 7, 30])
def test_seeded_baselines_are_distinct(selection: Selection, sheets: int) -> None:
    templates = templates_of(1)
    picks, clusters = select_with_clusters(templates, sheets, selection=selection, seed=8)
    assert clusters is None
    assert picks.shape == (sheets, 3, 4)
    for pixel in picks.flatten(1).T.tolist():
        assert len(set(pixel)) == sheets
        assert set(pixel) <= set(range(31))
    assert bool((picks == picks[:, :1, :1]).all()) == selection.startswith("image")
    assert torch.equal(picks, select(templates, sheets, selection=selection, seed=8))
    assert sheets == 1 or not torch.equal(picks, select(templates, sheets, selection=selection, seed=9))


def test_kmeans_finds_clear_clusters_and_their_central_members() -> None:
    generator = torch.Generator().manual_seed(0)
    member = torch.arange(40) % 5
    vectors = 10 * torch.eye(5, 6)[member] + 0.1 * torch.randn(3, 40, 6, generator=generator)
    vectors = vectors.double()
    picks = kmeans_members(vectors @ vectors.mT, torch.rand(3, 5, generator=generator))
    for found, points in zip(picks, vectors, strict=True):
        expected = set()
        for cluster in range(5):
            own = (member == cluster).nonzero().flatten()
            expected.add(int(own[(points[own] - points[own].mean(dim=0)).norm(dim=1).argmin()]))
        assert set(found.tolist()) == expected


@pytest.mark.parametrize("clusters", [2, 6, 15])
def test_kmeans_in_coordinates(clusters: int) -> None:
    """The same steps on coordinates, which know nothing of scalar products."""
    vectors = templates_of(9, images=40).flatten(2).permute(2, 0, 1).double()
    draws = torch.rand(len(vectors), clusters, generator=torch.Generator().manual_seed(0))
    picks = kmeans_members(vectors @ vectors.mT, draws)
    for points, own_draws, found in zip(vectors, draws, picks, strict=True):
        assert found.tolist() == slow_kmeans(points.numpy(), own_draws.numpy(), clusters)


def slow_kmeans(points: np.ndarray, draws: np.ndarray, clusters: int) -> list[int]:
    """k-means++ from the same draws, 25 steps of Lloyd on coordinates, nearest members."""
    seeds: list[int] = []
    for draw in draws.astype(np.float64):
        weights = np.ones(len(points))
        if seeds:
            weights = ((points[:, None] - points[seeds]) ** 2).sum(axis=2).min(axis=1)
        sums = np.cumsum(weights)
        seeds.append(int(np.argmax(sums > draw * sums[-1])))
    centroids = points[seeds]
    for _ in range(25):
        labels = ((points[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
        assert len(set(labels.tolist())) == clusters
        centroids = np.stack([points[labels == cluster].mean(axis=0) for cluster in range(clusters)])
    distances = ((points[:, None] - centroids) ** 2).sum(axis=2)
    own = np.where(labels[:, None] == np.arange(clusters), distances, np.inf)
    return (own <= own.min(axis=0) + 1e-12).argmax(axis=0).tolist()  # both members of a pair are equally near


def test_kmeans_of_copies_fills_every_cluster() -> None:
    vectors = torch.eye(3, dtype=torch.float64)[torch.arange(20) % 3][None]
    picks = kmeans_members(vectors @ vectors.mT, torch.rand(1, 9, generator=torch.Generator().manual_seed(0)))
    assert len(set(picks[0].tolist())) == 9
    assert {pick % 3 for pick in picks[0].tolist()} == {0, 1, 2}


def test_half_precision_and_strided_templates() -> None:
    templates = templates_of(4)
    expected = select(templates.half().double(), 6)
    assert torch.equal(select(templates.half(), 6), expected)
    strided = templates.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    assert torch.equal(select(strided, 6), select(templates, 6))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda() -> None:
    templates = templates_of(4)
    for selection in SELECTIONS:
        assert torch.equal(select(templates.cuda(), 6, selection=selection), select(templates, 6, selection=selection))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sheets": 0}, "sheets must be at least 1"),
        ({"templates": torch.ones(3, 1, 2)}, r"templates must be .N, C, H, W."),
        ({"templates": torch.ones(0, 1, 2, 2)}, "not empty"),
        ({"templates": torch.ones(3, 1, 2, 2, dtype=torch.int64)}, "floating point"),
        ({"templates": torch.full((3, 1, 2, 2), 1.01)}, r"image 0 at pixel \(0, 0\) has length 1.01: use .*normalize"),
        ({"templates": torch.ones(3, 1, 2, 2).index_fill_(0, torch.tensor([2]), torch.nan)}, "image 2 .* length nan"),
        ({"templates": torch.zeros(3, 1, 2, 2)}, "leave out images"),
        ({"selection": "median"}, "unknown selection 'median'; choose from: sum, maxmin"),
    ],
)
def test_refused_input(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(**{"templates": torch.ones(3, 1, 2, 2), "sheets": 2, **change})


def test_chunks_keep_to_the_budget() -> None:
    templates = templates_of(3, images=31, grid=(8, 8))
    chunks = [grams.nbytes for _, grams in pts._grams(templates, 1e-4, "cpu")]
    assert len(chunks) > 10
    assert max(chunks) <= 1e5
