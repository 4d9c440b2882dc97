"""Bases of readers of published datasets: fixed categories, image counts that reveal broken downloads, validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from ad_assets.datasets.base import Candidate, Problem, Reader
from ad_assets.datasets.decoding import PUBLISHED, Decoding
from ad_assets.datasets.readers.folder import MvtecLayout


class ImageCounts(NamedTuple):
    """Published numbers of images of one category: train, nominal test, anomalous test."""

    train: int
    good: int
    anomalous: int


class Published(Reader):
    """Base of datasets with known categories and numbers of images."""

    counts: ClassVar[Mapping[str, ImageCounts]]
    decodes: ClassVar[Decoding] = PUBLISHED

    check_counts: bool = Field(
        True,
        description="compare the numbers of images with the published ones, which finds broken downloads",
    )

    def categories(self) -> list[str]:
        """The published categories."""
        return list(self.counts)

    def _expected(self, category: str) -> ImageCounts:
        return self.counts[category]

    def _count_problems(self, category: str, candidates: Iterable[Candidate]) -> list[Problem]:
        if not self.check_counts:
            return []
        number = Counter((candidate.split, candidate.label) for candidate in candidates)
        counts = ImageCounts(number["train", 0], number["test", 0], number["test", 1])
        kinds = ("training", "good test", "anomalous test")
        return [
            count_problem(category, kind, expected, count)
            for kind, expected, count in zip(kinds, self._expected(category), counts, strict=True)
            if count != expected
        ]


class PublishedLayout(Published, MvtecLayout):
    """A published dataset in the layout of MVTec AD, or in one that `_as_mvtec` converts to it."""

    masks_required: ClassVar[bool] = True

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        by_category = super().assign(paths)
        return {category: by_category[category] for category in self.counts if category in by_category}

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        return super().check_names(category, paths, candidates) + self._count_problems(category, candidates)


class WithValidation(PublishedLayout):
    """A dataset with nominal validation images, which the papers' detectors do not use."""

    more_folders: ClassVar[tuple[str, ...]] = ("validation",)
    validation_counts: ClassVar[Mapping[str, int]]

    validation: Literal["leave_out", "train"] = Field(
        "leave_out", description="what to do with validation images: leave them out, as the papers do, or train on them"
    )

    @property
    def compared_with(self) -> str | None:
        """If validation images are used for training, results are not compared with the papers."""
        return self.paper_dataset if self.validation == "leave_out" else None

    def _expected(self, category: str) -> ImageCounts:
        train, good, anomalous = self.counts[category]
        more = self.validation_counts[category] if self.validation == "train" else 0
        return ImageCounts(train + more, good, anomalous)

    def _as_mvtec(self, parts: list[str]) -> list[str]:
        if self.validation == "train" and parts[1:2] == ["validation"]:
            return [parts[0], "train", *parts[2:]]
        return parts  # the layout has no folder validation, so it is left out


def count_problem(path: str, kind: str, expected: int, actual: int) -> Problem:
    """The problem of a published dataset with too few or too many images."""
    cause = "is the download complete?" if actual < expected else "were files added?"
    remedy = "check_counts: false accepts what is there"
    return Problem(path, f"expected {expected} {kind} images, found {actual}: {cause} ({remedy})")
