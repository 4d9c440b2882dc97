"""SPADE against the recorded neighbours and distances, and its promises about updates and left-out images."""

import math

import numpy as np
import pytest
import torch

from ad_assets.methods import Batch, Features, Runtime
from ad_assets.methods.retrieval.spade import Spade
from tests.support.fixtures import fixture
from tests.support.tap_features import tap_features

RUNTIME = Runtime()


def taps(seed: int, images: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, 5, 6, 8, generator=generator), torch.randn(images, 7, 3, 4, generator=generator)]


def scored(method, nominal, test, **options):
    features = tap_features(nominal)
    state = method.prepare(method.fit(features, RUNTIME), features, RUNTIME)
    return method.score(state, Batch(test, (6, 8), **options), RUNTIME)


def test_the_recorded_scores() -> None:
    data = fixture("spade")
    # One layer describes pixels; the other, of one place, is its own mean and describes images.
    nominal, query = (
        [torch.from_numpy(data[f"{part}_maps"]), torch.from_numpy(data[f"{part}_pooled"])[:, :, None, None]]
        for part in ("train", "query")
    )
    features = tap_features(nominal)
    method = Spade(neighbours=int(data["K"]), pixel_layers=1, sigma=0.0)
    state = method.prepare(method.fit(features, RUNTIME), features, RUNTIME)
    size = tuple(data["pixel_distance"].shape[1:])
    found = method.score(state, Batch(query, size), RUNTIME)
    np.testing.assert_allclose(found.maps, data["pixel_distance"], rtol=1e-6)
    np.testing.assert_allclose(found.image_scores, data["image_score"], rtol=1e-6)
    squared = method.model_copy(update={"squared": True}).score(state, Batch(query, size), RUNTIME)
    np.testing.assert_allclose(squared.image_scores, data["image_score_sq"], rtol=1e-6)
    assert torch.equal(squared.maps, found.maps)


def test_all_layers_describe_pixels_by_default() -> None:
    nominal, test = taps(0, 4), taps(1, 2)
    found = scored(Spade(sigma=0.0), nominal, test)
    wide = [torch.nn.functional.interpolate(layer, (6, 8), mode="bilinear") for layer in (nominal[1], test[1])]
    rows = torch.cat([nominal[0], wide[0]], dim=1).permute(0, 2, 3, 1).reshape(-1, 12)
    queries = torch.cat([test[0], wide[1]], dim=1).permute(0, 2, 3, 1).reshape(-1, 12)
    torch.testing.assert_close(found.maps.flatten(), torch.cdist(queries, rows).amin(dim=1), rtol=1e-4, atol=1e-5)


def test_a_pixel_may_be_compared_with_a_cluster() -> None:
    nominal, test = taps(4, 5), taps(5, 2)
    found = scored(Spade(sigma=0.0, pixel_neighbours=7, pixel_layers=1), nominal, test)
    rows, queries = (part[0].permute(0, 2, 3, 1).reshape(-1, 5) for part in (nominal, test))
    nearest = torch.cdist(queries, rows).sort(dim=1).values[:, :7]
    torch.testing.assert_close(found.maps.flatten(), nearest.mean(dim=1), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="pixel_neighbours: 50, and 1 images have 48 vectors"):
        scored(Spade(neighbours=1, pixel_neighbours=50), nominal, test)


def test_an_image_of_a_blind_set_is_not_compared_with_itself() -> None:
    nominal = taps(6, 6)
    ids = tap_features(nominal).image_ids
    blind = scored(Spade(), nominal, nominal, image_ids=ids)
    hidden = scored(Spade(exclude_same_image=False), nominal, nominal, image_ids=ids, left_out=True)
    assert torch.equal(blind.maps, hidden.maps)
    assert torch.equal(blind.image_scores, hidden.image_scores)
    itself = scored(Spade(exclude_same_image=False, neighbours=1), nominal, nominal, image_ids=ids)
    assert itself.image_scores.tolist() == [0] * 6


def test_left_out_equals_a_fit_without_the_image() -> None:
    nominal = taps(2, 6)
    rest = [0, 1, 2, 4, 5]
    one = [tap[3:4] for tap in nominal]
    for method in (Spade(), Spade(neighbours=2)):
        found = scored(method, nominal, one, image_ids=["image-3"], left_out=True)
        expected = scored(method, [tap[rest] for tap in nominal], one)
        torch.testing.assert_close(found.maps, expected.maps)
        torch.testing.assert_close(found.image_scores, expected.image_scores)
    assert scored(Spade(neighbours=1), nominal, one).image_scores[0] == 0
    with pytest.raises(ValueError, match="fit at least two images"):
        scored(
            Spade(), [tap[:1] for tap in nominal], [tap[:1] for tap in nominal], image_ids=["image-0"], left_out=True
        )


def test_an_update_equals_a_fit_of_the_union() -> None:
    features = tap_features(taps(3, 9))
    parts = [Features(ids, features.load, 2) for ids in (features.image_ids[::2], features.image_ids[1::2])]
    method = Spade()
    updated = method.update(method.fit(parts[0], RUNTIME), parts[1], RUNTIME)
    scratch = method.fit(features, RUNTIME)
    assert torch.equal(updated.pooled, scratch.pooled)
    assert updated.image_ids == scratch.image_ids


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="train split is empty"):
        Spade().fit(tap_features([tap[:0] for tap in taps(4, 1)]), RUNTIME)
    with pytest.raises(ValueError, match="pixel_layers: 3 of 2 layers"):
        Spade(pixel_layers=3).fit(tap_features(taps(4, 2)), RUNTIME)
    with pytest.raises(ValueError, match="score with the extractor"):
        scored(Spade(), taps(4, 3), [tap[:, :4] for tap in taps(4, 1)])
    broken = taps(4, 3)
    broken[0][1, 2, 3, 1] = math.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        Spade().fit(tap_features(broken), RUNTIME)
