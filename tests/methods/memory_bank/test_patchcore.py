"""PatchCore against the authors' outputs, equation 7 in loops, and its promises."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ad_assets.kernels.budget import BudgetError
from ad_assets.kernels.nearest import faiss_build
from ad_assets.methods import Batch, Runtime
from ad_assets.methods.memory_bank.patchcore import MemoryBank, PatchCore
from ad_assets.methods.memory_bank.subsampling import drawn_places
from tests.support.fixtures import fixture
from tests.support.tap_features import tap_features

# One tap, 1 x 1 patches, no pooling: the taps themselves are the patches, which gives hand-made patches a way in.
BARE = {"patch_size": 1, "pooling": "concat"}
RUNTIME = Runtime()


def _random(seed: int, images: int, channels: int = 12, side: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Few clusters with little spread: what patches of one product look like.
    centres = torch.rand(7, channels, generator=generator)
    which = torch.randint(7, (images, side, side), generator=generator)
    noise = torch.randn(images, channels, side, side, generator=generator)
    return centres[which].permute(0, 3, 1, 2) + 0.05 * noise


@pytest.fixture
def scoring() -> tuple[dict[str, np.ndarray], MemoryBank, list[torch.Tensor], tuple[int, int]]:
    arrays = fixture("patchcore_score")
    rows, columns = arrays["grid"].tolist()
    queries = torch.from_numpy(arrays["queries"]).reshape(-1, rows, columns, arrays["queries"].shape[1])
    bank = torch.from_numpy(arrays["bank"])
    source, place = torch.zeros(len(bank), dtype=torch.int64), torch.arange(len(bank))
    state = MemoryBank(bank, source, place, ["one"], [rows, columns], 0.0)
    height, width = arrays["out_size"].tolist()
    return arrays, state, [queries.permute(0, 3, 1, 2).contiguous()], (height, width)


@pytest.mark.parametrize(("squared", "expected"), [(True, "map_sq"), (False, "map_l2")])
def test_authors_maps(scoring, squared: bool, expected: str) -> None:
    arrays, state, taps, size = scoring
    method = PatchCore(**BARE, squared=squared, sigma=float(arrays["sigma"]))
    result = method.score(state, Batch(taps, size), RUNTIME)
    np.testing.assert_allclose(result.maps, arrays[expected], rtol=0, atol=1e-5 * arrays[expected].max())
    scores = arrays["image_score_sq"] if squared else np.sqrt(arrays["image_score_sq"])
    np.testing.assert_allclose(result.image_scores, scores, rtol=1e-5)
    assert result.maps.dtype == result.image_scores.dtype == torch.float32


@pytest.mark.parametrize(("neighbours", "expected"), [(1, "nn_sq"), (3, "nn3_sq_mean")])
def test_authors_patch_scores(scoring, neighbours: int, expected: str) -> None:
    arrays, state, taps, _ = scoring
    method = PatchCore(**BARE, squared=True, sigma=0, neighbours=neighbours)
    grid = method.score(state, Batch(taps, tuple(arrays["grid"].tolist())), RUNTIME).maps
    np.testing.assert_allclose(grid, arrays[expected], rtol=1e-5)


def test_equation_7(scoring) -> None:
    arrays, state, taps, size = scoring
    method = PatchCore(**BARE, image_score="reweighted", b=int(arrays["rw_b"]))
    result = method.score(state, Batch(taps, size), RUNTIME)
    np.testing.assert_allclose(result.image_scores, arrays["rw_score"], rtol=1e-5)


def test_equation_7_where_its_exponentials_overflow() -> None:
    taps = [_random(0, 2) * 3000]
    state = PatchCore(**BARE, coreset_ratio=1).fit(tap_features(taps), RUNTIME)
    odd = [_random(1, 1) * 3000 + 5000]
    method = PatchCore(**BARE, image_score="reweighted", b=4)
    bank = state.rows.double()
    distances = torch.cdist(odd[0][0].flatten(1).T.double(), bank)
    to_bank = distances.min(1)
    patch = int(to_bank.values.argmax())
    match = int(to_bank.indices[patch])
    assert distances[patch, match] > 1000  # exp() of this is infinite
    around = (bank - bank[match]).norm(dim=1).argsort()[:4].tolist()
    relative = sum(math.exp(distances[patch, row] - distances[patch, match]) for row in around)
    expected = (1 - 1 / relative) * float(distances[patch, match])
    assert float(method.score(state, Batch(odd, (6, 6)), RUNTIME).image_scores) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("ratio", [1e-9, 0.01, 0.29, 0.5, 1.0])
def test_the_bank_is_a_part_of_the_patches(ratio: float) -> None:
    taps = [_random(0, 5), _random(1, 5, channels=7, side=3)]
    method = PatchCore(coreset_ratio=ratio, pooling="concat", projection=None)
    state = method.fit(tap_features(taps), RUNTIME)
    patches = method.embed(taps, "cpu")
    assert len(state.rows) == max(1, int(ratio * 5 * 36))
    assert state.grid == [6, 6]
    picks = []
    for row, image in zip(state.rows, state.source.tolist(), strict=True):
        inside = (patches[image] == row).all(dim=1).nonzero()
        assert len(inside) == 1
        picks.append((image, int(inside)))
    assert len(set(picks)) == len(picks)
    described = method.describe(state)
    assert described["rows"] * described["compression"] == pytest.approx(5 * 36)
    radius = torch.cdist(patches.flatten(0, 1).double(), state.rows.double()).min(1).values.max()
    assert described["covering_radius"] == pytest.approx(float(radius), rel=1e-5, abs=1e-6)


def test_preselected_patches_of_an_image_do_not_depend_on_the_others() -> None:
    taps = [_random(0, 6)]
    method = PatchCore(**BARE, coreset_ratio=0.1, preselect=0.25)
    state, without = (method.fit(tap_features([taps[0][:images]]), RUNTIME) for images in (6, 5))
    assert len(state.rows) == int(0.1 * 6 * 36)  # coreset_ratio is of all patches, whatever was drawn
    patches = method.embed(taps, "cpu")
    assert torch.equal(state.rows, patches[state.source, state.place])
    for image in range(6):
        drawn = set(drawn_places(f"image-{image}", 36, 9, method.seed).tolist())
        assert len(drawn) == 9
        assert {
            place for source, place in zip(state.source.tolist(), state.place.tolist(), strict=True) if source == image
        } <= drawn
    # An update draws of the new image what a fit of all draws.
    newcomer = dataclasses.replace(tap_features(taps), image_ids=("image-5",))
    updated = method.update(without, newcomer, RUNTIME)
    own = updated.source == updated.image_ids.index("image-5")
    assert updated.appended == int(own.sum()) == int(0.1 * 6 * 36) - int(0.1 * 5 * 36)
    assert set(updated.place[own].tolist()) <= set(drawn_places("image-5", 36, 9, method.seed).tolist())
    assert torch.equal(updated.rows, patches[updated.source, updated.place])
    assert not torch.equal(drawn_places("image-5", 36, 9, 0), drawn_places("image-5", 36, 9, 1))


def test_preselection_bounds_memory_and_leaves_other_banks_where_they_are() -> None:
    small = Runtime(memory_gb=4 * 6 * 36 * 12 / 2e9)  # half of all patches
    features = tap_features([_random(0, 6)])
    with pytest.raises(ValueError, match=r"21 of 216 patches.* a smaller preselect"):
        PatchCore(**BARE, coreset_ratio=0.1).fit(features, small)
    drawn = PatchCore(**BARE, coreset_ratio=0.1, preselect=0.25)
    assert len(drawn.fit(features, small).rows) == 21
    assert "preselect" not in PatchCore(**BARE, coreset_ratio=0.1).stage_config("fit")
    assert drawn.stage_config("fit")["preselect"] == 0.25
    with pytest.raises(
        ValidationError, match=r"preselect: 0.25 of the patches are fewer than coreset_ratio keeps of all \(0.3\)"
    ):
        PatchCore(coreset_ratio=0.3, preselect=0.25)
    with pytest.raises(ValidationError, match="preselect: coreset_ratio 1 selects nothing; remove the key"):
        PatchCore(coreset_ratio=1, preselect=0.5)


@pytest.mark.parametrize("anchors", ["clean", "official"])
def test_covering_radius_of_a_projected_selection(anchors: str) -> None:
    taps = [_random(0, 30, channels=64)]
    method = PatchCore(**BARE, coreset_ratio=0.05, projection=4, anchors=anchors)
    state = method.fit(tap_features(taps), RUNTIME)
    patches = taps[0].flatten(2).transpose(1, 2).flatten(0, 1)
    radius = torch.cdist(patches.double(), state.rows.double()).min(1).values.max()
    assert state.covering_radius == pytest.approx(float(radius), rel=1e-5)
    # The farthest-first choice covers better than chance, also through four random directions.
    chance = patches[torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[: len(state.rows)]]
    assert state.covering_radius < torch.cdist(patches, chance).min(1).values.max()


def test_a_clean_selection_is_farthest_first() -> None:
    taps = [_random(0, 4)]
    state = PatchCore(**BARE, coreset_ratio=0.1, projection=None, seed=3).fit(tap_features(taps), RUNTIME)
    patches = taps[0].flatten(2).transpose(1, 2).flatten(0, 1).double().numpy()
    chosen = [int(np.flatnonzero((patches == state.rows[0].double().numpy()).all(axis=1))[0])]
    while len(chosen) < len(state.rows):
        distances = [min(np.linalg.norm(patch - patches[c]) for c in chosen) for patch in patches]
        chosen.append(int(np.argmax(distances)))
    np.testing.assert_array_equal(state.rows, patches[chosen].astype(np.float32))


def test_the_official_anchors_stay_in_the_minimum() -> None:
    taps = [_random(0, 4)]
    method = PatchCore(**BARE, coreset_ratio=0.1, projection=None, anchors="official", seed=3)
    state = method.fit(tap_features(taps), RUNTIME)
    patches = taps[0].flatten(2).transpose(1, 2).flatten(0, 1).double().numpy()
    anchors = torch.randint(len(patches), (10,), generator=torch.Generator().manual_seed(3)).tolist()
    distances = np.array([np.mean([np.linalg.norm(patch - patches[a]) for a in anchors]) for patch in patches])
    for row in state.rows.double().numpy():
        best = int(distances.argmax())
        np.testing.assert_allclose(row, patches[best], rtol=1e-6)
        distances = np.minimum(distances, np.linalg.norm(patches - patches[best], axis=1))


def test_same_bits_whatever_the_batch() -> None:
    taps = [_random(0, 7, channels=40), _random(1, 7, channels=20, side=3)]
    method = PatchCore(pre_dimensions=24, dimensions=24, projection=8, coreset_ratio=0.2, image_score="reweighted")
    state, again = (method.fit(tap_features(taps, batch_size), RUNTIME) for batch_size in (7, 1))
    assert torch.equal(state.rows, again.rows)
    assert torch.equal(state.source, again.source)
    assert state.covering_radius == again.covering_radius
    together = method.score(state, Batch(taps, (24, 24)), RUNTIME)
    alone = [method.score(state, Batch([tap[i : i + 1] for tap in taps], (24, 24)), RUNTIME) for i in range(7)]
    assert torch.equal(together.maps, torch.cat([result.maps for result in alone]))
    assert torch.equal(together.image_scores, torch.cat([result.image_scores for result in alone]))


def test_left_out_removes_the_images_own_rows() -> None:
    taps = [_random(0, 4)]
    method = PatchCore(**BARE, coreset_ratio=0.5, sigma=0)
    features = tap_features(taps)
    state = method.fit(features, RUNTIME)
    seen = method.score(state, Batch(taps, (6, 6)), RUNTIME)
    left_out = method.score(state, Batch(taps, (6, 6), features.image_ids, left_out=True), RUNTIME)
    patches = taps[0].flatten(2).transpose(1, 2).double()
    for image in range(4):
        others = state.rows[state.source != image].double()
        expected = torch.cdist(patches[image], others).min(1).values.reshape(6, 6)
        np.testing.assert_allclose(left_out.maps[image], expected, rtol=1e-5)
    assert (left_out.image_scores >= seen.image_scores).all()
    strangers = method.score(state, Batch(taps, (6, 6), ["a", "b", "c", "d"], left_out=True), RUNTIME)
    assert torch.equal(strangers.maps, seen.maps)


def test_one_image_fits_and_scores_zero_on_itself() -> None:
    taps = [_random(0, 1)]
    method = PatchCore(**BARE, coreset_ratio=1)
    state = method.fit(tap_features(taps), RUNTIME)
    assert method.score(state, Batch(taps, (12, 12)), RUNTIME).image_scores.tolist() == [0]
    with pytest.raises(ValueError, match="every row of the bank comes from image image-0"):
        method.score(state, Batch(taps, (12, 12), ["image-0"], left_out=True), RUNTIME)


def test_failures_name_the_remedy() -> None:
    taps = [_random(0, 3)]
    method = PatchCore(**BARE, coreset_ratio=0.05)
    state = method.fit(tap_features(taps), RUNTIME)
    with pytest.raises(ValueError, match="no nominal image"):
        method.fit(tap_features([taps[0][:0]]), RUNTIME)
    with pytest.raises(
        ValueError, match=r"the bounds of the selection need 4.6e-06 GB \(5 of 108 patches\).*raise compute.memory_gb"
    ):
        method.fit(tap_features(taps), dataclasses.replace(RUNTIME, memory_gb=1e-6))
    with pytest.raises(ValueError, match="rows of the bank 12: score with the extractor"):
        method.score(state, Batch([taps[0][:, :5]], (6, 6)), RUNTIME)
    with pytest.raises(ValueError, match=r"reads 6 neighbours, and the bank of 5 row\(s\)"):
        PatchCore(**BARE, neighbours=6).score(state, Batch(taps, (6, 6)), RUNTIME)
    taps[0][1, 2, 3, 4] = math.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        method.fit(tap_features(taps), RUNTIME)


@pytest.mark.parametrize(
    "options",
    [
        {"coreset_ratio": 0},
        {"coreset_ratio": 2},
        {"neighbours": 0},
        {"b": 1},
        {"image_score": "mean"},
        {"pooling": "concat", "dimensions": 1024},
        {"nieghbours": 1},
        {"search": "exact", "lists": 9},
        {"subsampling": "random", "projection": 9},
        {"coreset_ratio": 1, "subsampling": "random"},
    ],
)
def test_impossible_values(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(reversed(options))):
        PatchCore(**options)


def test_progress_is_reported() -> None:
    reports: list[tuple[str, int, int]] = []
    runtime = dataclasses.replace(RUNTIME, report=lambda *values: reports.append(values))
    PatchCore(**BARE).fit(tap_features([_random(0, 6)]), runtime)
    assert ("patches embedded", 4, 6) in reports
    assert ("coreset rows chosen", 21, 21) in reports


@pytest.mark.parametrize("subsampling", ["greedy", "random", "proxies"])
def test_ways_of_making_a_bank(subsampling: str) -> None:
    taps = [_random(0, 8, side=8)]
    features = tap_features(taps)
    method = PatchCore(**BARE, coreset_ratio=0.1, subsampling=subsampling, seed=2)
    state = method.fit(features, RUNTIME)
    assert len(state.rows) == int(0.1 * 8 * 64)
    patches = taps[0].flatten(2).transpose(1, 2).flatten(0, 1).double()
    covered = torch.cdist(patches, state.rows.double()).min(1).values
    assert state.covering_radius == pytest.approx(float(covered.max()), rel=1e-5)
    assert torch.equal(method.fit(features, RUNTIME).rows, state.rows)
    others = method.model_copy(update={"seed": 3}).fit(features, RUNTIME)
    assert not torch.equal(others.rows, state.rows)
    known = {tuple(patch) for patch in patches.tolist()}
    assert all(tuple(row) in known for row in state.rows.double().tolist()) == (subsampling != "proxies")
    assert method.updatable == method.leaves_out == (subsampling != "proxies")


def test_product_codes_find_nearly_what_a_search_does() -> None:
    taps, test = [_random(0, 8, side=8)], [_random(1, 3, side=8)]
    features = tap_features(taps)
    exact = PatchCore(**BARE, coreset_ratio=1, sigma=0)
    coded = PatchCore(**BARE, coreset_ratio=1, sigma=0, search="ivfpq", lists=4, probes=4, subquantisers=12)
    assert exact.stage_config("fit") == coded.stage_config("fit")
    assert exact.stage_config("match") != coded.stage_config("match")
    state = exact.fit(features, RUNTIME)
    near, found = (method.score(state, Batch(test, (8, 8)), RUNTIME).maps for method in (exact, coded))
    assert float((near - found).abs().mean() / near.mean()) < 0.05
    # Without its own patches, an image is as far from the codes as from the rows.
    near, found = (
        method.score(state, Batch(taps, (8, 8), features.image_ids, left_out=True), RUNTIME).maps
        for method in (exact, coded)
    )
    assert float((near - found).abs().mean() / near.mean()) < 0.05
    kept = next(coded.match(state, features, RUNTIME))[1]
    assert kept["rows"].shape == (4, 64, 2)
    assert int(kept["rows"].min()) >= 0


@pytest.mark.parametrize("probes", [1, 4])
def test_what_product_codes_lose_is_measured_on_images_left_out(probes: int) -> None:
    taps = [_random(0, 8, side=8)]
    features, coded = tap_features(taps), PatchCore(**BARE, coreset_ratio=1, sigma=0, search="ivfpq", lists=4,
                                                    probes=probes, subquantisers=2, bits=3)  # fmt: skip
    state = coded.fit(features, RUNTIME)
    quality = coded.search_quality(state, features, RUNTIME)
    # The same four images by hand: the nearest of the other rows in float64, and the nearest among what the codes say.
    drawn = torch.Generator().manual_seed(coded.seed)
    chosen = sorted(torch.randperm(8, generator=drawn)[:4].tolist())
    left = [number for number in range(8) if number not in chosen]
    patches = taps[0].flatten(2).transpose(1, 2).double()
    queries, others = patches[chosen].flatten(0, 1), patches[left].flatten(0, 1)
    distances = torch.cdist(queries, others, compute_mode="donot_use_mm_for_euclid_dist")
    codes = coded._codes(state, RUNTIME)
    numbers = torch.tensor([image * 64 + place for image in left for place in range(64)])
    told, found = codes.search(queries.float(), 1, probes=probes, allowed=torch.isin(torch.arange(512), numbers))
    place = torch.searchsorted(numbers, found[:, 0])
    recall = float((place == distances.argmin(dim=1)).double().mean())
    assert quality["search_recall_at_1"] == pytest.approx(recall)
    assert quality["search_distance_ratio"] == pytest.approx(float(told.sum() / distances.min(dim=1).values.sum()))
    assert 0 < recall < 1
    assert PatchCore(**BARE, coreset_ratio=1).search_quality(state, features, RUNTIME) == {}
    alone = tap_features([taps[0][:1]])
    assert coded.search_quality(coded.fit(alone, RUNTIME), alone, RUNTIME) == {}


def test_product_codes_that_the_budget_does_not_hold_are_told_and_refused() -> None:
    features = tap_features([_random(0, 8, side=8)])
    method = PatchCore(**BARE, coreset_ratio=1, search="ivfpq")
    small = Runtime(memory_gb=1e-4)
    assert not method.needs(features.sample(), 8).fits(small.memory_gb)
    assert PatchCore(**BARE, coreset_ratio=1).needs(features.sample(), 8).fits(small.memory_gb)
    state = method.fit(features, RUNTIME)
    with pytest.raises(BudgetError, match="product codes of 512 rows need"):
        next(method.match(state, features, small))


def test_product_codes_without_faiss_name_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_build, "find_spec", lambda _: None)
    assert PatchCore().search == "exact"  # needs none
    with pytest.raises(ValidationError, match=r"search: ivfpq: faiss is missing: pip install 'ad-assets\[cpu\]'"):
        PatchCore(search="ivfpq")


@pytest.mark.parametrize("both", [("faiss-cpu", "faiss-gpu"), ("faiss_cpu", "faiss-gpu-cuvs"), ("faiss", "faiss-gpu")])
def test_two_builds_of_faiss_are_refused_with_the_command_that_mends_it(
    both: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [SimpleNamespace(name=name, version="1.15.1") for name in (*both, "faissx", None)]
    monkeypatch.setattr(faiss_build, "distributions", lambda: others)
    faiss_build.faiss_builds.cache_clear()
    try:
        assert PatchCore().search == "exact"
        with pytest.raises(ValidationError, match=rf"pip uninstall --yes {' '.join(sorted(both))}, then pip install"):
            PatchCore(search="ivfpq")
    finally:
        faiss_build.faiss_builds.cache_clear()
