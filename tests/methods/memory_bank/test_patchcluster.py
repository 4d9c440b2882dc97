"""PatchCluster against naive float64 sums of equations 2 and 3, and what blind settings change."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ad_assets.methods import Batch, Runtime
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.memory_bank.patchcluster import PatchCluster
from ad_assets.methods.memory_bank.patchcore import PatchCore
from tests.support.fixtures import fixture
from tests.support.tap_features import tap_features

# One tap, 1 x 1 patches, no pooling: the taps themselves are the patches.
BARE: dict[str, Any] = {"patch_size": 1, "pooling": "concat", "sigma": 0}
RUNTIME = Runtime()


def _mixed(seed: int, images: int = 6, channels: int = 10, side: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(5, channels, generator=generator)
    which = torch.randint(5, (images, side, side), generator=generator)
    noise = torch.randn(images, channels, side, side, generator=generator)
    return [centres[which].permute(0, 3, 1, 2) + 0.05 * noise]


def _patches(taps: list[torch.Tensor]) -> np.ndarray:
    return taps[0].flatten(2).transpose(1, 2).double().numpy()


@pytest.mark.parametrize("case", ["in", "out", "oneclass"])
def test_equations_2_and_3(case: str) -> None:
    arrays = fixture("patchcluster")
    queries = torch.from_numpy(arrays["queries_out" if case != "in" else "queries_in"])
    images, patches, size = queries.shape
    bank, k = torch.from_numpy(arrays["bank"]), int(arrays["K"])
    names = [f"image-{number}" for number in range(images)]
    source = torch.full((len(bank),), -1)
    place = torch.zeros(len(bank), dtype=torch.int64)
    if case == "in":
        index = torch.from_numpy(arrays["queries_in_index"]).long()
        source[index] = torch.arange(images).unsqueeze(1).expand_as(index)
        place[index] = torch.arange(patches).expand_as(index)
    # Patches that the coreset did not choose skip their first neighbour all the same, if their image is in the bank.
    state = MemoryBank(bank, source, place, [] if case == "oneclass" else names, [5, 5], 0.0)
    taps = [queries.transpose(1, 2).reshape(images, size, 5, 5)]
    method = PatchCluster(**BARE, coreset_ratio=1, neighbours=k)
    result = method.score(state, Batch(taps, (5, 5), names), RUNTIME)
    mean = arrays[f"{case}_mean_dist"]
    np.testing.assert_allclose(result.maps.flatten(1), mean, rtol=1e-5)
    np.testing.assert_allclose(result.image_scores, arrays[f"{case}_image_score"], rtol=1e-4, atol=1e-4)
    largest = method.model_copy(update={"image_score": "max"}).score(state, Batch(taps, (5, 5), names), RUNTIME)
    np.testing.assert_allclose(largest.image_scores, mean.max(axis=1), rtol=1e-5)
    if case == "in":  # here the nearest row is the patch itself, so both readings of the paper agree
        itself = method.model_copy(update={"skip": "self"}).score(state, Batch(taps, (5, 5), names), RUNTIME)
        torch.testing.assert_close(itself.maps, result.maps)


@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_one_neighbour_is_patchcore_under_the_same_skipping(ratio: float) -> None:
    taps = _mixed(0)
    features = tap_features(taps)
    cluster = PatchCluster(**BARE, coreset_ratio=ratio, neighbours=1, image_score="max")
    core = PatchCore(**BARE, coreset_ratio=ratio)
    assert cluster.stage_config("fit") == core.stage_config("fit")  # hence one bank, found and not built again
    assert cluster.stage_config("match") == core.stage_config("match")
    state = core.fit(features, RUNTIME)
    one, other = (m.score(state, Batch(taps, (5, 5), features.image_ids), RUNTIME) for m in (cluster, core))
    assert torch.equal(one.maps, other.maps)
    assert torch.equal(one.image_scores, other.image_scores)
    seen = core.score(state, Batch(taps, (5, 5)), RUNTIME)  # as strangers, patches meet themselves
    assert bool((seen.maps <= other.maps).all())
    if ratio == 1:
        assert float(seen.maps.max()) == 0


@pytest.mark.parametrize(
    ("options", "hidden"), [({"skip": "self"}, "self"), ({"exclude_same_image": True}, "image"), ({}, "first")]
)
def test_what_is_skipped(options: dict[str, Any], hidden: str) -> None:
    taps = _mixed(1)
    features = tap_features(taps)
    method = PatchCluster(**BARE, coreset_ratio=0.4, neighbours=3, image_score="max", **options)
    state = method.fit(features, RUNTIME)
    result = method.score(state, Batch(taps, (5, 5), features.image_ids), RUNTIME)
    bank = state.rows.double().numpy()
    for image, patches in enumerate(_patches(taps)):
        for place, patch in enumerate(patches):
            distances = [
                float(np.linalg.norm(patch - row))
                for number, row in enumerate(bank)
                if not (hidden == "image" and int(state.source[number]) == image)
                and not (hidden == "self" and (int(state.source[number]), int(state.place[number])) == (image, place))
            ]
            nearest = sorted(distances)[1 if hidden == "first" else 0 :][:3]
            assert float(result.maps[image].flatten()[place]) == pytest.approx(np.mean(nearest), rel=1e-5)


@pytest.mark.parametrize("options", [{"coreset_ratio": 1.0}, {"coreset_ratio": 0.4}, {"exclude_same_image": True}])
def test_kept_neighbours_score_alike_and_serve_any_number(options: dict[str, Any]) -> None:
    taps, test = _mixed(2), _mixed(3, images=3)
    features = tap_features(taps)
    everything = [torch.cat([taps[0], test[0]])]
    images = tap_features(everything)  # the first six are those of the bank
    method = PatchCluster(**BARE, **options, kept_neighbours=12, neighbours=2)
    state = method.fit(features, RUNTIME)
    found = list(method.match(state, images, RUNTIME))
    assert [len(ids) for ids, _ in found] == [4, 4, 1]
    kept = {name: torch.cat([values[name] for _, values in found]) for name in ("distances", "rows")}
    assert kept["distances"].shape == (9, 25, 12)
    for neighbours in (1, 2, 11):
        other = method.model_copy(update={"neighbours": neighbours})
        given = other.score(state, Batch(everything, (5, 5), images.image_ids, matches=kept), RUNTIME)
        sought = other.score(state, Batch(everything, (5, 5), images.image_ids), RUNTIME)
        torch.testing.assert_close(given.maps, sought.maps, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(given.image_scores, sought.image_scores, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValidationError, match="kept_neighbours: 12, and a score may read 12 and one to skip; keep 13"):
        PatchCluster(kept_neighbours=12, neighbours=12)
    few = PatchCluster(**BARE, **options, kept_neighbours=3, neighbours="images")
    with pytest.raises(ValueError, match=r"kept_neighbours: 3, and a score may read [56]"):
        few.score(state, Batch(everything, (5, 5), images.image_ids, matches=kept), RUNTIME)


def test_the_number_of_neighbours_follows_the_images() -> None:
    method = PatchCluster(**BARE, coreset_ratio=0.25, neighbours="images")
    assert [method.n_neighbours(images) for images in (3, 40, 100, 356)] == [5, 10, 25, 89]
    state = method.fit(tap_features(_mixed(0)), RUNTIME)
    assert method.describe(state)["suggested_neighbours"] == 5


def test_a_whole_bank_grows_as_if_from_scratch() -> None:
    taps = _mixed(4, images=7)
    features = tap_features(taps)
    method = PatchCluster(**BARE, coreset_ratio=1)
    chosen = [0, 2, 3, 6]
    old, new = (_part(features, numbers) for numbers in (chosen, [1, 4, 5]))
    updated = method.update(method.fit(old, RUNTIME), new, RUNTIME)
    scratch = method.fit(features, RUNTIME)
    for name, tensor in scratch.tensors().items():
        assert torch.equal(updated.tensors()[name], tensor), name
    assert updated.info() == scratch.info()


def test_a_coreset_grows_by_new_patches_only() -> None:
    taps = _mixed(5, images=12, side=8)
    features = tap_features(taps)
    method = PatchCluster(**BARE, coreset_ratio=0.1, projection=None)
    old = method.fit(_part(features, list(range(8))), RUNTIME)
    updated = method.update(old, _part(features, [8, 9, 10, 11]), RUNTIME)
    scratch = method.fit(features, RUNTIME)
    assert len(updated.rows) == len(scratch.rows)
    assert torch.equal(updated.rows[: len(old.rows)], old.rows)
    added = [updated.image_ids[number] for number in updated.source[len(old.rows) :].tolist()]
    assert set(added) <= {f"image-{number}" for number in (8, 9, 10, 11)}
    assert updated.appended == len(updated.rows) - len(old.rows)
    patches = torch.from_numpy(_patches(taps)).flatten(0, 1)
    for row, image, place in zip(updated.rows, updated.source, updated.place, strict=True):
        number = features.image_ids.index(updated.image_ids[int(image)])
        assert torch.equal(row, taps[0][number].flatten(1)[:, place])
    covered = float(torch.cdist(patches, updated.rows.double()).min(1).values.max())
    assert covered <= updated.covering_radius * (1 + 1e-6)
    assert updated.covering_radius < 1.5 * scratch.covering_radius


def _part(features: Any, numbers: list[int]) -> Any:
    import dataclasses

    return dataclasses.replace(features, image_ids=tuple(sorted(features.image_ids[n] for n in numbers)))
