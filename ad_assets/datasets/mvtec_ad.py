"""MVTec AD: Bergmann, Fauser, Sattlegger, Steger, "MVTec AD", CVPR 2019.

15 categories, 3629 training and 1725 test images (467 good, 1258 anomalous) with masks. Download it from
MVTec (CC BY-NC-SA 4.0) and point `root` at the folder that holds ``bottle``, ``cable``, ...
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field

from ad_assets.datasets.base import Candidate, Problem, register_reader
from ad_assets.datasets.folder import MVTEC_LAYOUT, MvtecLayout

if TYPE_CHECKING:
    from collections.abc import Sequence


class Counts(NamedTuple):
    """Images of one category as published."""

    train: int
    good: int
    anomalous: int


COUNTS = {
    "bottle": Counts(209, 20, 63),
    "cable": Counts(224, 58, 92),
    "capsule": Counts(219, 23, 109),
    "carpet": Counts(280, 28, 89),
    "grid": Counts(264, 21, 57),
    "hazelnut": Counts(391, 40, 70),
    "leather": Counts(245, 32, 92),
    "metal_nut": Counts(220, 22, 93),
    "pill": Counts(267, 26, 141),
    "screw": Counts(320, 41, 119),
    "tile": Counts(230, 33, 84),
    "toothbrush": Counts(60, 12, 30),
    "transistor": Counts(213, 60, 40),
    "wood": Counts(247, 19, 60),
    "zipper": Counts(240, 32, 119),
}


@register_reader
class MvtecAdReader(MvtecLayout):
    """Reader of MVTec AD as published."""

    name: ClassVar[str] = "mvtec_ad"
    version: ClassVar[int] = 1
    paper_dataset: ClassVar[str | None] = "MVTec AD"
    origin: ClassVar[str] = "https://www.mvtec.com/company/research/datasets/mvtec-ad (CC BY-NC-SA 4.0)"
    layout: ClassVar[str] = MVTEC_LAYOUT

    check_counts: bool = Field(
        True,
        description="compare the numbers of images with the published ones, which finds broken downloads",
    )

    def categories(self) -> list[str]:
        """The 15 published ones."""
        return list(COUNTS)

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        found = super().assign(paths)
        return {category: found[category] for category in COUNTS if category in found}

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        problems = super().check_names(category, paths, candidates)
        if self.check_counts:
            number = Counter((candidate.split, candidate.label) for candidate in candidates)
            found = Counts(number["train", 0], number["test", 0], number["test", 1])
            kinds = ("training", "good test", "anomalous test")
            for kind, expected, count in zip(kinds, COUNTS[category], found, strict=True):
                if count != expected:
                    problems.append(count_problem(category, kind, expected, count))
        return problems


def count_problem(path: str, kind: str, expected: int, found: int) -> Problem:
    """The problem of a published dataset that lacks images, or has more."""
    cause = "is the download complete?" if found < expected else "were files added?"
    remedy = "check_counts: false accepts what is there"
    return Problem(path, f"expected {expected} {kind} images, found {found}: {cause} ({remedy})")
