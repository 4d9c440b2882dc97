"""PaDiM against the recorded Gaussians, textbook formulas, and its own refits."""

import math

import numpy as np
import pytest
import torch

from ad_assets.methods import Batch, Features, Runtime
from ad_assets.methods.padim import Gaussians, Padim
from tests.support.emulated_device import cuda_device
from tests.support.fixtures import fixture
from tests.support.tap_features import tap_features

RUNTIME = Runtime()


def taps(seed: int, images: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, 6, 8, 6, generator=generator), torch.randn(images, 10, 4, 3, generator=generator)]


def fitted(method, nominal, **options):
    return fitted_by(method, tap_features(nominal, **options), RUNTIME)


def fitted_by(method: Padim, features: Features, runtime: Runtime) -> Gaussians:
    return method.prepare(method.fit(features, runtime), features, runtime)


def test_the_recorded_gaussians_and_distances() -> None:
    data = fixture("padim")
    ridge = float(data["ridge"])
    method = Padim(channels=None, ridge=ridge, sigma=0.0)
    state = fitted(method, [torch.from_numpy(data["train"])])
    np.testing.assert_allclose(state.mean.permute(2, 0, 1), data["mean"], atol=1e-6)
    np.testing.assert_allclose(state.covariance + ridge * torch.eye(20), data["cov"], atol=1e-6)
    size = tuple(data["distance"].shape[1:])
    found = method.score(state, Batch([torch.from_numpy(data["queries"])], size), RUNTIME)
    np.testing.assert_allclose(found.maps, data["distance"], rtol=1e-3)
    np.testing.assert_allclose(found.image_scores, data["distance"].max(axis=(1, 2)), rtol=1e-3)


def test_layers_are_joined_on_the_first_grid() -> None:
    nominal = taps(0, 9)
    state = fitted(Padim(channels=None), nominal)
    # Place (5, 4) of 8 x 6 lies in place (2, 2) of 4 x 3.
    vectors = torch.cat([nominal[0][:, :, 5, 4], nominal[1][:, :, 2, 2]], dim=1).double()
    np.testing.assert_allclose(state.mean[5, 4], vectors.mean(dim=0), atol=1e-6)
    np.testing.assert_allclose(state.covariance[5, 4], np.cov(vectors.numpy().T), atol=1e-5)
    few = fitted(Padim(channels=5, seed=3), nominal)
    assert few.channels.tolist() == fitted(Padim(channels=5, seed=3), nominal).channels.tolist()
    assert len(set(few.channels.tolist())) == 5
    np.testing.assert_array_equal(few.covariance[5, 4], state.covariance[5, 4][few.channels][:, few.channels])


@pytest.mark.parametrize("news", [1, 2, 6])
def test_an_update_equals_a_fit_of_the_union(news: int) -> None:
    nominal, test = taps(1, 20), taps(2, 3)
    features = tap_features(nominal)
    method = Padim(channels=12, ridge=0.1)
    split = len(features) - news
    old, new = (Features(ids, features.load, 4) for ids in (features.image_ids[:split], features.image_ids[split:]))
    updated = method.update(method.fit(old, RUNTIME), new, RUNTIME)
    scratch = method.fit(features, RUNTIME)
    torch.testing.assert_close(updated.mean, scratch.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(updated.covariance, scratch.covariance, rtol=0, atol=1e-6)
    assert updated.image_ids == sorted(scratch.image_ids)
    maps = [
        method.score(method.prepare(s, features, RUNTIME), Batch(test, (16, 16)), RUNTIME).maps
        for s in (updated, scratch)
    ]
    torch.testing.assert_close(*maps, rtol=1e-5, atol=1e-5)


def test_left_out_equals_a_fit_without_the_image() -> None:
    nominal = taps(3, 12)
    method = Padim(channels=None, ridge=0.3, sigma=1.0)
    state = fitted(method, nominal)
    rest = [i for i in range(12) if i != 4]
    without = fitted(method, [tap[rest] for tap in nominal])
    one = [tap[4:5] for tap in nominal]
    found = method.score(state, Batch(one, (16, 16), ["image-4"], left_out=True), RUNTIME)
    torch.testing.assert_close(
        found.maps, method.score(without, Batch(one, (16, 16)), RUNTIME).maps, rtol=1e-3, atol=1e-4
    )
    apart = method.without(state, {"image-4"}, tap_features(nominal), RUNTIME)
    torch.testing.assert_close(apart.covariance, without.covariance, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        method.score(apart, Batch(one, (16, 16)), RUNTIME).maps, found.maps, rtol=1e-3, atol=1e-4
    )
    stranger = method.score(state, Batch(one, (16, 16), ["somebody-else"], left_out=True), RUNTIME)
    assert torch.equal(stranger.maps, method.score(state, Batch(one, (16, 16)), RUNTIME).maps)


def test_an_image_is_left_out_whoever_is_beside_it() -> None:
    method, nominal = Padim(channels=5), taps(7, 9)
    state, ids = fitted(method, nominal), ["image-4", "somebody-else", "image-2"]
    images = [tap[[4, 0, 2]] for tap in nominal]
    together = method.score(state, Batch(images, (16, 16), ids, left_out=True), RUNTIME)
    for number, own in enumerate(ids):
        alone = Batch([tap[number, None] for tap in images], (16, 16), [own], left_out=True)
        torch.testing.assert_close(method.score(state, alone, RUNTIME).maps[0], together.maps[number])


def test_batches_bands_and_order_do_not_matter() -> None:
    nominal, test = taps(4, 11), taps(5, 2)
    method = Padim(channels=9, ridge=0.1)
    maps = method.score(fitted(method, nominal), Batch(test, (16, 16)), RUNTIME).maps
    small = Runtime(memory_gb=3e-5)  # one row of places at a time
    features = tap_features(nominal, 3)
    banded = method.prepare(method.fit(features, small), features, small)
    torch.testing.assert_close(method.score(banded, Batch(test, (16, 16)), small).maps, maps, rtol=1e-5, atol=1e-5)
    shuffled = fitted(method, [tap[torch.arange(10, -1, -1)] for tap in nominal])
    torch.testing.assert_close(method.score(shuffled, Batch(test, (16, 16)), RUNTIME).maps, maps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("memory_gb", "kept"), [(1.0, ["cuda", "cuda"]), (1.5e-4, ["cuda", "cpu"]), (9e-5, ["cpu", "cpu"])]
)
def test_a_device_holds_the_factors_that_fit_its_budget(memory_gb: float, kept: list[str]) -> None:
    # A factor takes 8 * 6 * 16 * 16 * 4 = 49,152 bytes; the left-out one is kept only where both fit half the budget.
    nominal, method = tap_features(taps(0, 9)), Padim(channels=None)
    batch = Batch(taps(1, 2), (16, 16), ["image-0", "new"], left_out=True)
    cpu = Runtime(memory_gb=memory_gb)
    expected = method.score(fitted_by(method, nominal, cpu), batch, cpu)
    with cuda_device() as device:
        runtime = Runtime(device, memory_gb)
        state = fitted_by(method, nominal, runtime).to(device)
        found = method.score(state, batch, runtime)
        places = [state.mean.device.type, state.covariance.device.type]
        factors = [each.device.type for each in state.whitening]
    assert places == ["cuda", "cpu"]
    assert factors == kept
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-4, atol=1e-4)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="at least two nominal images, there are 1"):
        Padim().fit(tap_features(taps(6, 1)), RUNTIME)
    with pytest.raises(ValueError, match="fit at least three images"):
        Padim().score(fitted(Padim(), taps(6, 2)), Batch(taps(6, 1), (8, 8), ["image-0"], left_out=True), RUNTIME)
    with pytest.raises(ValueError, match="keep fewer channels"):
        Padim().fit(tap_features(taps(6, 4)), Runtime(memory_gb=1e-6))
    broken = taps(6, 4)
    broken[0][1, 2, 3, 1] = math.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        Padim().fit(tap_features(broken), RUNTIME)
    with pytest.raises(ValueError, match="score with the extractor"):
        Padim().score(fitted(Padim(), taps(6, 4)), Batch(taps(6, 1)[:1], (8, 8)), RUNTIME)
