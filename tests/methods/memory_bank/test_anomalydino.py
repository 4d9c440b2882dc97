"""AnomalyDINO against loops over cosines, and its promises."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter
from sklearn.decomposition import PCA

from ad_assets.methods import METHODS, Batch, Runtime
from ad_assets.methods.memory_bank.anomalydino import AnomalyDino
from ad_assets.methods.memory_bank.object_mask import object_mask
from tests.support.tap_features import tap_features

RUNTIME = Runtime()
SIDE = 15  # 225 patches: two are the highest 1 %


def _taps(seed: int, images: int) -> torch.Tensor:
    lengths = torch.rand(images, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed + 100)) * 50 + 0.1
    return torch.randn(images, 6, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * lengths


def _cosines(nominal: torch.Tensor, image: torch.Tensor, neighbours: int) -> np.ndarray:
    rows = nominal.double().permute(0, 2, 3, 1).reshape(-1, 6).numpy()
    found = []
    for patch in image.double().permute(1, 2, 0).reshape(-1, 6).numpy():
        away = sorted(1 - row @ patch / np.sqrt(row @ row) / np.sqrt(patch @ patch) for row in rows)
        found.append(np.mean(away[:neighbours]))
    return np.array(found)


@pytest.mark.parametrize(("neighbours", "share", "highest"), [(1, 0.01, 2), (3, 0.001, 1)])
def test_scores_are_cosines_and_the_mean_of_the_highest(neighbours: int, share: float, highest: int) -> None:
    nominal, test = _taps(0, 2), _taps(1, 2)
    method = AnomalyDino(neighbours=neighbours, image_share=share, sigma=0.0)
    state = method.fit(tap_features([nominal]), RUNTIME)
    result = method.score(state, Batch([test], (SIDE, SIDE)), RUNTIME)
    smooth = method.model_copy(update={"sigma": 2.0}).score(state, Batch([test], (SIDE, SIDE)), RUNTIME)
    for number, image in enumerate(test):
        expected = _cosines(nominal, image, neighbours)
        np.testing.assert_allclose(result.maps[number].flatten(), expected, rtol=1e-4, atol=1e-6)
        assert float(result.image_scores[number]) == pytest.approx(np.sort(expected)[-highest:].mean(), rel=1e-4)
        blurred = gaussian_filter(expected.reshape(SIDE, SIDE), 2.0)
        np.testing.assert_allclose(smooth.maps[number], blurred, rtol=1e-3, atol=1e-5)


def test_the_length_of_a_token_changes_nothing() -> None:
    nominal, test = _taps(0, 3), _taps(1, 2)
    method = AnomalyDino()
    lengths = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(7)) + 0.5
    plain, scaled = (
        method.score(method.fit(tap_features([a]), RUNTIME), Batch([b], (30, 30)), RUNTIME)
        for a, b in ((nominal, test), (nominal * lengths, test * 3))
    )
    torch.testing.assert_close(plain.maps, scaled.maps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain.image_scores, scaled.image_scores, rtol=1e-4, atol=1e-5)


def test_an_update_ends_where_a_fit_of_all_does() -> None:
    method, whole = AnomalyDino(), tap_features([_taps(0, 5)])
    ids = whole.image_ids
    first, second = (type(whole)(tuple(some), whole.load) for some in (ids[::2], ids[1::2]))
    updated, fitted = method.update(method.fit(first, RUNTIME), second, RUNTIME), method.fit(whole, RUNTIME)
    assert updated.info() == fitted.info()
    assert all(torch.equal(updated.tensors()[name], fitted.tensors()[name]) for name in fitted.tensors())


def test_its_bank_is_not_that_of_raw_tokens() -> None:
    raw = METHODS["patchcore"](pooling="concat", patch_size=1, coreset_ratio=1.0)
    assert all(AnomalyDino().stage_config(stage) != raw.stage_config(stage) for stage in ("fit", "match"))


def test_proxies_are_refused() -> None:
    with pytest.raises(ValidationError, match="length one"):
        AnomalyDino(coreset_ratio=0.5, subsampling="proxies")


def _photograph(seed: int, dark: bool) -> torch.Tensor:
    """Tokens of an object in the middle of a background: (6, SIDE, SIDE)."""
    generator = np.random.default_rng(seed)
    away = np.hypot(*(np.indices((SIDE, SIDE)) - SIDE // 2 + generator.integers(-1, 2, (2, 1, 1)))) > 5
    direction = generator.normal(size=6)
    tokens = generator.normal(size=(SIDE, SIDE, 6)) + 40 * (away == dark)[..., None] * direction
    tokens[0, 0] += 90 * direction * (1 if dark else -1)  # a spot of background that is like the object
    return torch.from_numpy(tokens).float().permute(2, 0, 1)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_mask_is_that_of_scikit_learn_and_scipy(seed: int, dark: bool) -> None:
    tokens = _photograph(seed, dark).permute(1, 2, 0).reshape(-1, 6)
    along = PCA(1).fit_transform(tokens.double().numpy())[:, 0]
    sides = [(sign * along > 10).reshape(SIDE, SIDE) for sign in (1, -1)]
    inner = [side[3:12, 3:12].mean() > 0.35 for side in sides]
    assert sum(inner) == 1, "the free sign of the component would decide"
    block = np.ones((3, 3))
    expected = binary_dilation(binary_dilation(sides[inner.index(True)], block), block)
    expected = binary_erosion(expected, block, border_value=1)
    found = object_mask(tokens, (SIDE, SIDE), 10.0)
    assert np.array_equal(found.reshape(SIDE, SIDE), expected)
    assert 0.2 < found.float().mean() < 0.8


def test_background_scores_zero_and_the_object_as_without_a_mask() -> None:
    nominal = torch.stack([_photograph(seed, False) for seed in range(3)])
    test = torch.stack([_photograph(seed, seed % 2 == 0) for seed in range(5, 9)])
    plain, masked = AnomalyDino(sigma=0.0), AnomalyDino(sigma=0.0, mask="pca")
    state = plain.fit(tap_features([nominal]), RUNTIME)
    assert plain.stage_config("match") == masked.stage_config("match")
    whole, kept = (each.score(state, Batch([test], (SIDE, SIDE)), RUNTIME) for each in (plain, masked))
    for number, image in enumerate(test):
        mask = object_mask(image.flatten(1).T, (SIDE, SIDE), 10.0).reshape(SIDE, SIDE)
        assert torch.equal(kept.maps[number], whole.maps[number] * mask)
        alone = masked.score(state, Batch([image[None]], (SIDE, SIDE)), RUNTIME)
        assert torch.equal(alone.maps[0], kept.maps[number])
    assert masked.graph_fault.startswith("mask: pca")


def test_a_threshold_without_a_mask_is_refused() -> None:
    with pytest.raises(ValidationError, match="only mask 'pca' reads it"):
        AnomalyDino(mask_threshold=5.0)


def test_presets_turn_and_mask_what_the_authors_do() -> None:
    presets = AnomalyDino.presets
    informed = presets["mvtec_ad_informed"]["categories"]
    assert {name for name, own in informed.items() if own.get("turns") == 8} == {"hazelnut", "screw"}
    assert all(own["mask"] == "pca" for own in informed.values())
    assert presets["mvtec_ad_agnostic"] == {"turns": 8, **presets["mvtec_ad"]}
    assert presets["visa_agnostic"] == {"turns": 8, **presets["visa"]}
