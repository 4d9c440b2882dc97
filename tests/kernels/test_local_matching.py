"""Matching within windows against four nested loops, and the authors' outputs."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from ad_assets.kernels import local_matching
from ad_assets.kernels.local_matching import Screening, find_matches, match
from ad_assets.kernels.patch_matching import match_patches
from tests.support.emulated_device import cuda_device
from tests.support.fixtures import fixture


def unit(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator), dim=1)


def naive(query: np.ndarray, templates: np.ndarray, window: int) -> np.ndarray:
    """Equation 4 in loops: for every place of every query the smallest distance to a template place in its window.

    Equation 5 is the same with query and templates in exchange, one query as the only template.
    """
    images, _, height, width = query.shape
    result = np.empty((images, height, width))
    for b in range(images):
        for y in range(height):
            for x in range(width):
                smallest = math.inf
                for ty in range(height):
                    for tx in range(width):
                        if abs(ty - y) <= window // 2 and abs(tx - x) <= window // 2:
                            smallest = min(smallest, 1 - float((templates[:, :, ty, tx] @ query[b, :, y, x]).max()))
                result[b, y, x] = smallest
    return result


def naive_backward(query: np.ndarray, templates: np.ndarray, window: int) -> np.ndarray:
    return np.stack([naive(templates, image[None], window).min(axis=0) for image in query])


@pytest.mark.parametrize(("forward", "backward"), [(1, 1), (3, 5), (5, 1), (4, 4), (9, 3), (15, 15)])
@pytest.mark.parametrize("side", [(6, 9), (1, 5), (7, 2)])
def test_both_directions_equal_loops(forward: int, backward: int, side: tuple[int, int]) -> None:
    query, templates = unit(0, 3, 4, *side), unit(1, 5, 4, *side)
    found = match(query, templates, forward, backward)
    exact = query.double().numpy(), templates.double().numpy()
    np.testing.assert_allclose(found[0], naive(*exact, forward), atol=1e-6)
    np.testing.assert_allclose(found[1], naive_backward(*exact, backward), atol=1e-6)


@pytest.mark.parametrize("layer", ["l1", "l2"])
def test_the_authors_outputs(layer: str) -> None:
    data = fixture("hetmm_match")
    query, templates = torch.from_numpy(data[f"{layer}_query"]), torch.from_numpy(data[f"{layer}_templates"])
    for number, window in enumerate(data["windows"].tolist()):
        forward, backward = match(query, templates, window, window)
        np.testing.assert_allclose(forward, data[f"{layer}_forward"][number], atol=2e-6)
        np.testing.assert_allclose(backward, data[f"{layer}_backward"][number], atol=2e-6)
        alpha = float(data["alpha"])
        np.testing.assert_allclose(alpha * forward + (1 - alpha) * backward, data[f"{layer}_D"][number], atol=2e-6)


def test_one_table_serves_all_smaller_windows() -> None:
    query, templates = unit(2, 2, 8, 10, 11), unit(3, 6, 8, 10, 11)
    table = find_matches(query, templates.permute(2, 3, 0, 1).contiguous(), 9)
    for window in (1, 3, 5, 9):
        forward, backward = match(query, templates, window, window)
        torch.testing.assert_close(table.forward(window), forward, rtol=0, atol=1e-6)
        torch.testing.assert_close(table.backward(window), backward, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="windows from 1 to 9"):
        table.forward(11)


def test_batch_budget_order_and_layout_do_not_matter() -> None:
    # Enough templates for products of several shapes: one place, some places, a cut-off last tile.
    query, templates = unit(4, 6, 16, 9, 13), unit(5, 300, 16, 9, 13)
    forward, backward = match(query, templates, 5, 3)
    close = {"rtol": 0, "atol": 1e-6}
    for one in range(6):
        alone = match(query[one : one + 1], templates, 5, 3, memory_gb=1e-6)
        torch.testing.assert_close(alone[0][0], forward[one], **close)
        torch.testing.assert_close(alone[1][0], backward[one], **close)
    shuffled = match(query, templates[torch.randperm(300, generator=torch.Generator().manual_seed(0))], 5, 3)
    torch.testing.assert_close(shuffled[0], forward, **close)
    torch.testing.assert_close(shuffled[1], backward, **close)
    view = templates.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    assert torch.equal(match(query, view, 5, 3)[0], forward)


def test_exchanging_the_roles_exchanges_the_directions() -> None:
    query, templates = unit(6, 1, 8, 7, 7), unit(7, 1, 8, 7, 7)
    forward, backward = match(query, templates, 3, 5)
    back, forth = match(templates, query, 5, 3)
    torch.testing.assert_close(forward, forth, rtol=0, atol=1e-6)
    torch.testing.assert_close(backward, back, rtol=0, atol=1e-6)


def test_more_templates_and_larger_windows_come_nearer() -> None:
    query, templates = unit(8, 2, 8, 8, 8), unit(9, 9, 8, 8, 8)
    few, many = match(query, templates[:4], 3, 3), match(query, templates, 3, 3)
    wide = match(query, templates, 7, 7)
    for a, b, c in zip(few, many, wide, strict=True):
        assert (b <= a + 1e-6).all()
        assert (c <= b + 1e-6).all()
    seen = match(templates, templates, 3, 3)
    assert max(float(d.max()) for d in seen) < 1e-6


@pytest.mark.parametrize(("forward", "backward"), [(1, 1), (5, 3), (3, 9)])
def test_screening_in_bfloat16_scores_real_pairs(forward: int, backward: int) -> None:
    query, templates = unit(10, 3, 32, 9, 10), unit(11, 40, 32, 9, 10)
    exact = match(query, templates, forward, backward)
    screened = match(query, templates, forward, backward, screening="bfloat16")
    for one, other in zip(screened, exact, strict=True):
        assert (one >= other - 1e-6).all()
        assert (one <= other + 0.012).all()
        assert (one - other).abs().median() < 1e-6  # most winners are the same


def with_others_in_their_stead(templates: torch.Tensor, excluded: torch.Tensor) -> torch.Tensor:
    """The templates that an image meets: a excluded vector is the place's first other one, or nothing."""
    met = templates.clone()
    for t, y, x in excluded.nonzero().tolist():
        others = [k for k in range(len(templates)) if not excluded[k, y, x]]
        met[t, :, y, x] = templates[others[0], :, y, x] if others else 0
    return met


@pytest.mark.parametrize("screening", ["float32", "bfloat16", "patches"])
def test_hidden_vectors_are_not_met(screening: str) -> None:
    query, templates = unit(20, 6, 16, 6, 7), unit(21, 5, 16, 6, 7)
    excluded = torch.rand(6, 5, 6, 7, generator=torch.Generator().manual_seed(22)) < 0.4
    excluded[0], excluded[1, :, 2:5, 3:6], excluded[2], excluded[2, 3] = False, True, False, True
    # The images themselves are among the vectors, so what is not excluded well is found at distance 0.
    templates[3] = query[2]
    for b in range(6):
        one, met = query[b : b + 1], with_others_in_their_stead(templates, excluded[b])
        if screening == "patches":
            found = [match_patches(query, templates, 3, memory_gb=1e-6, excluded=excluded)]
            expected = [match_patches(one, met, 3)]
        else:
            exact = one.double().numpy(), met.double().numpy()
            found = list(match(query, templates, 5, 3, screening=screening, excluded=excluded))  # type: ignore[arg-type]
            expected = [torch.from_numpy(naive(*exact, 5)), torch.from_numpy(naive_backward(*exact, 3))]
        for mine, right in zip(found, expected, strict=True):
            assert (mine[b] - right[0]).abs().max() < (0.012 if screening == "bfloat16" else 2e-6)
        if screening == "bfloat16":
            assert all((mine[b] >= right[0] - 1e-6).all() for mine, right in zip(found, expected, strict=True))


@pytest.mark.parametrize("size", [1, 3, 7])
def test_patches_equal_concatenated_vectors(size: int) -> None:
    query, templates = unit(12, 2, 4, 6, 5), unit(13, 3, 4, 6, 5)
    found = match_patches(query, templates, size, memory_gb=1e-9)  # a template at a time
    radius = size // 2
    for b in range(2):
        for y in range(6):
            for x in range(5):
                rows = slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)
                mine = query[b][:, rows[0], rows[1]].double().flatten()
                cosines = [
                    float(torch.cosine_similarity(mine, t[:, rows[0], rows[1]].double().flatten(), dim=0))
                    for t in templates
                ]
                assert abs(float(found[b, y, x]) - (1 - max(cosines))) < 1e-6
    if size == 1:
        torch.testing.assert_close(found, match(query, templates, 1, 1)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("screening", ["float32", "bfloat16"])
@pytest.mark.parametrize(("forward", "backward"), [(1, 1), (5, 3), (3, 9), (4, 4), (15, 15)])
@pytest.mark.parametrize("side", [(6, 9), (1, 5)])
def test_a_device_finds_the_same_pairs(
    monkeypatch: pytest.MonkeyPatch, side: tuple[int, int], forward: int, backward: int, screening: Screening
) -> None:
    query, templates = unit(30, 3, 8, *side), unit(31, 5, 8, *side)
    excluded = torch.rand(3, 5, *side, generator=torch.Generator().manual_seed(32)) < 0.4
    excluded[1, :, :, 2:4] = True
    for unmet in (None, excluded):
        expected = match(query, templates, forward, backward, screening=screening, excluded=unmet)
        for product in (1 << 25, 13 * 3 * max(forward, backward) ** 2 * 4):  # all places at once, or a few
            monkeypatch.setattr(local_matching, "CUDA_PRODUCT", product)
            with cuda_device() as device:
                on_device = unmet.to(device) if unmet is not None else None
                found = match(
                    query.to(device),
                    templates.to(device),
                    forward,
                    backward,
                    screening=screening,
                    excluded=on_device,
                )
                found = [each.cpu() for each in found]
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_bad_input_is_refused() -> None:
    query, templates = unit(14, 2, 4, 5, 5), unit(15, 3, 4, 5, 5)
    with pytest.raises(ValueError, match="of one extractor"):
        match(query, templates[:, :, :4], 3, 3)
    with pytest.raises(ValueError, match="nothing to match"):
        match(query, templates[:0], 3, 3)
    with pytest.raises(ValueError, match="float32"):
        match(query.double(), templates, 3, 3)
    with pytest.raises(ValueError, match="at least 1"):
        match(query, templates, 0, 3)
    with pytest.raises(ValueError, match="must be odd"):
        match_patches(query, templates, 2)
    broken = query.clone()
    broken[1, 0, 2, 2] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        match(broken, templates, 3, 3)
