"""What is drawn as synthetic anomalies: by the image's id, inside the image, and more of it with the strength."""

import numpy as np
import pytest

from ad_assets.datasets.synthetic import KINDS, STRENGTHS, synthetic_anomalies
from tests.support.bench_graph import draw_image

IMAGE = "0123" * 16


def test_an_image_has_the_same_anomalies_each_time_and_another_image_has_others() -> None:
    rgb = draw_image(3)
    first, again, other = (list(synthetic_anomalies(rgb, image)) for image in (IMAGE, IMAGE, "4567" * 16))
    assert [(each.kind, each.strength) for each in first] == [(k, s) for k in KINDS for s in STRENGTHS]
    assert all(np.array_equal(one.rgb, two.rgb) for one, two in zip(first, again, strict=True))
    assert not any(np.array_equal(one.rgb, two.rgb) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("shape", [(64, 64), (40, 200), (200, 40), (32, 32)])
def test_a_stronger_one_covers_more_and_all_lie_around_the_middle(shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    before = rgb.copy()
    changed = {(each.kind, each.strength): (each.rgb != rgb).any(axis=2) for each in synthetic_anomalies(rgb, IMAGE)}
    assert np.array_equal(rgb, before)
    for kind in KINDS:
        areas = [int(changed[kind, strength].sum()) for strength in STRENGTHS]
        assert 0 < areas[0] < areas[1] < areas[2] < rgb[..., 0].size / 2, kind


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (5, 3)])
def test_an_image_of_a_few_pixels_is_drawn_into_all_the_same(shape: tuple[int, int]) -> None:
    rgb = np.zeros((*shape, 3), np.uint8)
    assert {each.rgb.shape for each in synthetic_anomalies(rgb, IMAGE)} == {rgb.shape}


def test_the_ground_decides_whether_spots_are_light_or_dark() -> None:
    for level, sign in ((20, 1), (230, -1)):
        grey = np.full((64, 64, 3), level, np.uint8)
        drawn = {each.kind: each.rgb.astype(int) - level for each in synthetic_anomalies(grey, IMAGE)}
        assert sign * drawn["spots"].sum() > 0
        assert sign * drawn["scar"].sum() > 0
        assert not drawn["blur"].any()
