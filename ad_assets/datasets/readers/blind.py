"""Blind settings over any labelled dataset (Zhang et al., That's BAD, 2023, section 3): no image is known to be good.

One set S of images is both trained on and scored:

- ``mix``: all images of the other dataset, its train and its test split;
- ``test``: its test split;
- ``ano``: the anomalous images of its test split, so that only pixel metrics are defined.

The labels of the other dataset select the images of ``ano`` and evaluate the scores; training rows of the index have
none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from ad_assets.datasets.base import Candidate, Problem, ProgressReport, Reader, Saturation, register_reader
from ad_assets.datasets.decoding import Decoding

if TYPE_CHECKING:
    from ad_assets.datasets.listing import Listing

Setting = Literal["mix", "test", "ano"]


@register_reader
class BlindReader(Reader):
    """The images of another reader, without its split into nominal training images and test images."""

    name: ClassVar[str] = "blind"
    version: ClassVar[int] = 1
    blind: ClassVar[bool] = True

    root: str = ""
    of: SerializeAsAny[Reader] = Field(description="the labelled dataset; in benchmark files the name of one above")
    setting: Setting = Field("mix", description="which of its images")

    @model_validator(mode="before")
    @classmethod
    def _as_the_other(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("of"), Reader):
            return {**values, "root": values["of"].root, "on_problem": values["of"].on_problem}
        return values

    def index_config(self) -> dict[str, Any]:
        """The other reader's, and the setting."""
        return {"reader": self.name, "version": self.version, "of": self.of.index_config(), "setting": self.setting}

    @property
    def compared_with(self) -> str | None:
        """``MVTec-Mix``, ``MVTec-Test`` or ``MVTec-Ano`` over MVTec AD; no results of others are published."""
        if self.of.compared_with != "MVTec AD":
            return None
        return f"MVTec-{self.setting.capitalize()}"

    @property
    def own_images(self) -> bool:
        """The other reader's."""
        return self.of.own_images

    @property
    def decoding(self) -> Decoding:
        """The other reader's."""
        return self.of.decoding

    def prepare(self, category: str | None = None, report: ProgressReport | None = None) -> None:
        """Prepare the files of the other dataset.

        Args:
            category: only this one; None for all.
            report: as for the other reader.
        """
        self.of.prepare(category, report)

    def left_out(self) -> dict[str, str]:
        return self.of.left_out()

    def categories(self) -> list[str]:
        """The other dataset's."""
        return self.of.categories()

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        assigned = {}
        for category, candidates in self.of.assign(paths).items():
            chosen = [replace(candidate, split="test") for candidate in candidates if self._takes(candidate)]
            unlabelled = [Candidate(candidate.path, "train", None, "") for candidate in chosen]
            assigned[category] = [*unlabelled, *chosen]
        return assigned

    def paths_by_category(self, paths: Sequence[str]) -> dict[str, list[str]]:
        return self.of.paths_by_category(paths)

    def stands(self, category: str, listing: Listing) -> bool:
        return self.of.stands(category, listing)

    def misfits(self, paths: Sequence[str]) -> list[Problem]:
        return self.of.misfits(paths)

    def parts_of(self, categories: Collection[str]) -> set[str] | None:
        return self.of.parts_of(categories)

    def tables(self, category: str) -> tuple[str, ...]:
        return self.of.tables(category)

    @property
    def has_groups(self) -> bool:
        return self.of.has_groups

    @property
    def has_regions(self) -> bool:
        return self.of.has_regions

    @property
    def region_margin(self) -> int:
        return self.of.region_margin

    def region_path(self, category: str) -> str | None:
        return self.of.region_path(category)

    def saturations(self, category: str) -> Mapping[int, Saturation]:
        return self.of.saturations(category)

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        del candidates
        return self.of.check_names(category, paths, self.of.assign(paths).get(category, []))

    def _takes(self, candidate: Candidate) -> bool:
        if self.setting == "mix":
            return True
        return candidate.split == "test" and (self.setting == "test" or candidate.label == 1)
