"""The patch embedding against the authors' outputs and against the definition in slow loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ad_assets.methods.patch_embedding import embed
from tests.support.fixtures import fixture


@pytest.mark.parametrize("case", ["small", "small_p5", "small_s2", "real", "real_t384"])
def test_authors_outputs(case: str) -> None:
    arrays = fixture("patchcore_embed")
    pre, dimensions, patch_size, stride = arrays[f"{case}_params"].tolist()
    taps = [torch.from_numpy(arrays[f"{case.split('_')[0]}_layer{level}"]) for level in (2, 3)]
    result = embed(
        taps, patch_size=patch_size, stride=stride, pre_dimensions=pre, dimensions=dimensions, pooling="authors"
    )
    assert result.dtype == torch.float32
    assert result.shape == (len(taps[0]), math.prod(arrays[f"{case}_grid"]), dimensions)
    np.testing.assert_allclose(result.flatten(0, 1), arrays[f"{case}_embedding"], rtol=0, atol=1e-6)


@settings(max_examples=30)
@given(st.data())
def test_authors_by_definition(data: st.DataObject) -> None:
    channels = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    sizes = data.draw(st.lists(st.tuples(st.integers(3, 7), st.integers(3, 7)), min_size=3, max_size=3))
    patch_size, stride = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    pre, dimensions = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(0)
    taps = [torch.rand(2, c, *size, generator=generator) for c, size in zip(channels, sizes, strict=False)]
    result = embed(
        taps, patch_size=patch_size, stride=stride, pre_dimensions=pre, dimensions=dimensions, pooling="authors"
    )
    for image in range(2):
        arrays = [tap[image].double().numpy() for tap in taps]
        expected = _slow_authors(arrays, patch_size, stride, pre, dimensions)
        np.testing.assert_allclose(result[image], expected, rtol=0, atol=1e-6)


def test_concat_by_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    taps = [torch.rand(2, 5, 6, 4, generator=generator), torch.rand(2, 7, 3, 2, generator=generator)]
    result = embed(taps, pooling="concat")
    for image in range(2):
        planes = [_slow_resize(_slow_windows(tap[image].double().numpy(), 3, 1).mean(1), (6, 4)) for tap in taps]
        expected = np.concatenate(planes).reshape(12, -1).T
        np.testing.assert_allclose(result[image], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooling", ["authors", "concat"])
def test_an_image_does_not_see_its_batch(pooling: str) -> None:
    taps = [torch.rand(5, 40, 14, 14), torch.rand(5, 112, 7, 7), torch.rand(5, 20, 4, 4)]
    together = embed(taps, pooling=pooling, pre_dimensions=96, dimensions=64)
    alone = [
        embed([tap[i : i + 1] for tap in taps], pooling=pooling, pre_dimensions=96, dimensions=64) for i in range(5)
    ]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize(
    ("taps", "patch_size", "message"),
    [
        ([], 3, "needs at least one"),
        ([torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 2, 2)], 3, "of one batch"),
        ([torch.zeros(2, 3, 4)], 3, r"must be \(B, C, h, w\)"),
        ([torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 1, 1)], 4, "does not fit a tap of shape"),
    ],
)
def test_bad_taps(taps: list[torch.Tensor], patch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        embed(taps, patch_size=patch_size)


def _slow_authors(taps: list[np.ndarray], patch_size: int, stride: int, pre: int, dimensions: int) -> np.ndarray:
    """Windows, resized plane by plane, pooled twice: (rows * columns, dimensions)."""
    windows = [_slow_windows(tap, patch_size, stride) for tap in taps]
    rows, columns = windows[0].shape[2:]
    windows = [_slow_resize(window.reshape(-1, *window.shape[2:]), (rows, columns)) for window in windows]
    result = np.empty((rows * columns, dimensions))
    for row in range(rows):
        for column in range(columns):
            joint = np.concatenate([_slow_pool(window[:, row, column], pre) for window in windows])
            result[row * columns + column] = _slow_pool(joint, dimensions)
    return result


def _slow_windows(tap: np.ndarray, patch_size: int, stride: int) -> np.ndarray:
    """(C, h, w) -> (C, p * p, rows, columns), zeros outside."""
    channels, height, width = tap.shape
    border = (patch_size - 1) // 2
    rows = (height + 2 * border - patch_size) // stride + 1
    columns = (width + 2 * border - patch_size) // stride + 1
    windows = np.zeros((channels, patch_size**2, rows, columns))
    for row in range(rows):
        for column in range(columns):
            for i in range(patch_size):
                for j in range(patch_size):
                    y, x = row * stride - border + i, column * stride - border + j
                    if 0 <= y < height and 0 <= x < width:
                        windows[:, i * patch_size + j, row, column] = tap[:, y, x]
    return windows


def _slow_resize(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, half-pixel centres, edges repeated: (n, h, w) -> (n, *size)."""
    height, width = planes.shape[1:]
    result = np.empty((len(planes), *size))
    for row in range(size[0]):
        y = min(max((row + 0.5) * height / size[0] - 0.5, 0), height - 1)
        top, bottom = math.floor(y), min(math.floor(y) + 1, height - 1)
        for column in range(size[1]):
            x = min(max((column + 0.5) * width / size[1] - 0.5, 0), width - 1)
            left, right = math.floor(x), min(math.floor(x) + 1, width - 1)
            upper = planes[:, top, left] * (left + 1 - x) + planes[:, top, right] * (x - left)
            lower = planes[:, bottom, left] * (left + 1 - x) + planes[:, bottom, right] * (x - left)
            result[:, row, column] = upper * (top + 1 - y) + lower * (y - top)
    return result


def _slow_pool(values: np.ndarray, cells: int) -> np.ndarray:
    ends = [(math.floor(i * len(values) / cells), math.ceil((i + 1) * len(values) / cells)) for i in range(cells)]
    return np.array([values[low:high].mean() for low, high in ends])
