"""Ensembles of detectors: the mean of their maps on a common scale (PatchCore, Roth et al., CVPR 2022).

Departure: the public implementation scales each member by the smallest and largest score of the test set, so
that an image's score depends on the other test images. Here each member is scaled by nominal images only:
subtract the mean and divide by the standard deviation of its left-out scores of nominal training images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from ad_assets.methods.data import NominalScores, ScoreMaps
from ad_assets.settings.model import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Ensemble(Settings):
    """A detector of the benchmark file that fuses other detectors of the same dataset."""

    name: ClassVar[str] = "ensemble"
    version: ClassVar[int] = 1

    members: tuple[str, ...] = Field(
        min_length=1, description="names of the detectors to fuse; one alone: all its draws"
    )

    @field_validator("members")
    @classmethod
    def _unique(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(members)) < len(members):
            raise ValueError(f"every member counts once; write each name once: {', '.join(members)}")
        return members


def fuse(maps: Sequence[Tensor], image_scores: Sequence[Tensor], nominal_scores: Sequence[Tensor]) -> ScoreMaps:
    """Fuse the scores of members, one entry a member; an image's result does not depend on the other images.

    Args:
        maps: each (N, H, W).
        image_scores: each (N,).
        nominal_scores: each (n,), left-out image scores of nominal training images, n >= 2.

    Returns:
        Maps and image scores in standard deviations of nominal image scores, float32.

    Raises:
        ValueError: numbers or shapes differ between members, or nominal scores that give no scale.
    """
    import torch

    if not maps or not len(maps) == len(image_scores) == len(nominal_scores):
        raise ValueError(
            f"expected maps, image scores and nominal scores of the same members, got {len(maps)}, "
            f"{len(image_scores)} and {len(nominal_scores)}"
        )
    shapes = {(tuple(m.shape), tuple(s.shape)) for m, s in zip(maps, image_scores, strict=True)}
    if len(shapes) > 1 or maps[0].ndim != 3 or image_scores[0].shape != maps[0].shape[:1]:
        raise ValueError(f"members must score the same images at the same (N, H, W), got {sorted(shapes)}")
    fused_maps = torch.zeros(maps[0].shape, dtype=torch.float64)
    fused_scores = torch.zeros(image_scores[0].shape, dtype=torch.float64)
    for number, nominal in enumerate(nominal_scores):
        spread = float(nominal.double().std()) if len(nominal) > 1 else 0.0
        if not 0 < spread < float("inf"):
            raise ValueError(
                f"member {number + 1} of {len(maps)}: its {len(nominal)} nominal scores have no spread to "
                "scale by; the category needs at least two nominal training images with different scores"
            )
        centre = nominal.double().mean()
        fused_maps += (maps[number].double().cpu() - centre) / spread
        fused_scores += (image_scores[number].double().cpu() - centre) / spread
    return ScoreMaps((fused_maps / len(maps)).float(), (fused_scores / len(maps)).float())


def fuse_nominal(members: Sequence[NominalScores]) -> NominalScores:
    """The ensemble's own scores of the nominal images that all its members have scored.

    Args:
        members: one entry a member; each may have left out other images.

    Raises:
        ValueError: as `fuse`.
    """
    import torch

    common = [image for image in members[0].image_ids if all(image in member.image_ids for member in members)]
    rows = [[member.image_ids.index(image) for image in common] for member in members]
    scales = [torch.tensor(member.scores) for member in members]
    scores = [values[chosen] for values, chosen in zip(scales, rows, strict=True)]
    # A map of one pixel holds the highest score of each: the highest of a mean is at most the mean of the highest.
    maxima = [
        torch.tensor(member.map_maxima)[chosen].reshape(-1, 1, 1) for member, chosen in zip(members, rows, strict=True)
    ]
    fused = fuse(maxima, scores, scales)
    groups = [
        [member.groups[row] for row in chosen]
        for member, chosen in zip(members, rows, strict=True)
        if member.groups and common
    ]
    left_out = "; ".join(sorted({member.left_out for member in members if member.left_out}))
    joined = _joined_groups(groups) if groups else []
    return NominalScores(common, fused.image_scores.tolist(), fused.maps.flatten().tolist(), joined, left_out)


def _joined_groups(members: Sequence[Sequence[int]]) -> list[int]:
    """Numbers of groups by which images are together that any member has in one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(members[0])
    first = [groups.index(group) for groups in members for group in groups]
    second = [image for groups in members for image in range(count)]
    links = coo_array(([1] * len(first), (first, second)), shape=(count, count))
    numbers: list[int] = connected_components(links, directed=False)[1].tolist()
    return numbers
