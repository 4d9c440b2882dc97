"""Fusion: scale, independence of the other test images, failures."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ad_assets.methods.ensemble import Ensemble, fuse


def _members() -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    scale = [1.0, 1000.0]
    return (
        [torch.rand(4, 5, 6, generator=generator) * s for s in scale],
        [torch.rand(4, generator=generator) * s for s in scale],
        [torch.rand(7, generator=generator) * s for s in scale],
    )


def test_members_are_averaged_in_units_of_their_nominal_spread() -> None:
    maps, scores, nominal = _members()
    fused = fuse(maps, scores, nominal)
    expected_maps, expected_scores = np.zeros((4, 5, 6)), np.zeros(4)
    for member in range(2):
        values = nominal[member].double().numpy()
        spread = np.sqrt(((values - values.mean()) ** 2).sum() / (len(values) - 1))
        expected_maps += (maps[member].double().numpy() - values.mean()) / spread / 2
        expected_scores += (scores[member].double().numpy() - values.mean()) / spread / 2
    np.testing.assert_allclose(fused.maps, expected_maps, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(fused.image_scores, expected_scores, rtol=1e-6, atol=1e-6)
    assert fused.maps.dtype == fused.image_scores.dtype == torch.float32


def test_the_unit_of_a_member_is_irrelevant() -> None:
    maps, scores, nominal = _members()
    fused = fuse(maps, scores, nominal)
    maps[1], scores[1], nominal[1] = 0.5 * maps[1] + 8, 0.5 * scores[1] + 8, 0.5 * nominal[1] + 8
    again = fuse(maps, scores, nominal)
    torch.testing.assert_close(again.maps, fused.maps, rtol=1e-5, atol=1e-5)


def test_an_image_does_not_see_the_other_test_images() -> None:
    maps, scores, nominal = _members()
    fused = fuse(maps, scores, nominal)
    alone = fuse([m[2:3] for m in maps], [s[2:3] for s in scores], nominal)
    assert torch.equal(alone.maps, fused.maps[2:3])
    assert torch.equal(alone.image_scores, fused.image_scores[2:3])


def test_failures() -> None:
    maps, scores, nominal = _members()
    with pytest.raises(ValueError, match="same images"):
        fuse([maps[0], maps[1][:3]], scores, nominal)
    with pytest.raises(ValueError, match="same members"):
        fuse(maps, scores, nominal[:1])
    with pytest.raises(ValueError, match=r"member 2 of 2: its 1 nominal scores have no spread"):
        fuse(maps, scores, [nominal[0], nominal[1][:1]])
    with pytest.raises(ValueError, match=r"no spread"):
        fuse(maps, scores, [nominal[0], torch.ones(7)])


@pytest.mark.parametrize("members", [["a", "a"], []])
def test_members_are_different_lanes(members: list[str]) -> None:
    with pytest.raises(ValidationError, match="members"):
        Ensemble(members=members)
