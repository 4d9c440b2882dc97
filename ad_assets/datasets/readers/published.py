"""What readers of published datasets share: known categories, counts that find broken downloads, validation images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from ad_assets.datasets.base import Candidate, Problem, Reader
from ad_assets.datasets.decoding import PUBLISHED, Decoding
from ad_assets.datasets.readers.folder import MvtecLayout


class ImageCounts(NamedTuple):
    """Images of one category as published."""

    train: int
    good: int
    anomalous: int


class Published(Reader):
    """A dataset whose categories, and the number of images of each, are known."""

    counts: ClassVar[Mapping[str, ImageCounts]]
    decodes: ClassVar[Decoding] = PUBLISHED

    check_counts: bool = Field(
        True,
        description="compare the numbers of images with the published ones, which finds broken downloads",
    )

    def categories(self) -> list[str]:
        """The published ones."""
        return list(self.counts)

    def _expected(self, category: str) -> ImageCounts:
        return self.counts[category]

    def _count_problems(self, category: str, candidates: Iterable[Candidate]) -> list[Problem]:
        if not self.check_counts:
            return []
        number = Counter((candidate.split, candidate.label) for candidate in candidates)
        found = ImageCounts(number["train", 0], number["test", 0], number["test", 1])
        kinds = ("training", "good test", "anomalous test")
        return [
            count_problem(category, kind, expected, count)
            for kind, expected, count in zip(kinds, self._expected(category), found, strict=True)
            if count != expected
        ]


class PublishedLayout(Published, MvtecLayout):
    """A published dataset in the layout of MVTec AD, or in one that `_as_mvtec` turns into it."""

    masks_required: ClassVar[bool] = True

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        found = super().assign(paths)
        return {category: found[category] for category in self.counts if category in found}

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        return super().check_names(category, paths, candidates) + self._count_problems(category, candidates)


class WithValidation(PublishedLayout):
    """A dataset with nominal images to validate on, which the papers' detectors have no use for."""

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
        return parts  # the layout knows no folder validation, and leaves it out


def count_problem(path: str, kind: str, expected: int, found: int) -> Problem:
    """The problem of a published dataset that lacks images, or has more."""
    cause = "is the download complete?" if found < expected else "were files added?"
    remedy = "check_counts: false accepts what is there"
    return Problem(path, f"expected {expected} {kind} images, found {found}: {cause} ({remedy})")
