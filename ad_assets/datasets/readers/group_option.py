"""The option `groups` of readers of a user's own images: what belongs together, such as a lot, a day, a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from pydantic import Field, field_validator

from ad_assets.datasets.base import Candidate, Problem, Reader
from ad_assets.datasets.strays import counted

FOLDER, COLUMN = "folder", "column"


class GroupOption(Reader):
    """Base of readers with the option `groups`."""

    groups: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="what is left out and held out together: folder (in which an image lies), column (group of the "
        "manifest), or a pattern with one (...) that is sought in paths, such as 'lot_(\\d+)'; null: near-copies",
    )

    @field_validator("groups")
    @classmethod
    def _is_pattern(cls, groups: str | None) -> str | None:
        if groups is None or groups in (FOLDER, COLUMN):
            return groups
        try:
            found = re.compile(groups).groups
        except re.error as error:
            raise ValueError(f"is no pattern (regular expression): {error}; or write {FOLDER} or {COLUMN}") from None
        if found != 1:
            raise ValueError(
                f"a pattern has one (...), which is the group, and this has {found}; or {FOLDER}, {COLUMN}"
            )
        return groups

    def index_config(self) -> dict[str, Any]:
        # Indexes made before there were groups keep their fingerprint.
        return {key: value for key, value in super().index_config().items() if key != "groups" or value is not None}

    @property
    def has_groups(self) -> bool:
        return self.groups is not None

    def column_groups(self) -> Mapping[str, str]:
        """Path of an image -> its group by the table of the dataset."""
        return {}

    def grouped(self, assigned: Mapping[str, Sequence[Candidate]]) -> dict[str, list[Candidate]]:
        """The candidates of each category with their groups."""
        if self.groups is None:
            return {category: list(candidates) for category, candidates in assigned.items()}
        by_column = self.column_groups() if self.groups == COLUMN else {}
        return {
            category: [replace(each, group=self._group_of(each.path, by_column)) for each in candidates]
            for category, candidates in assigned.items()
        }

    def _group_of(self, path: str, by_column: Mapping[str, str]) -> str:
        if self.groups == FOLDER:
            return str(PurePosixPath(path).parent)
        return by_column.get(path, "") if self.groups == COLUMN else self.group_in(path)

    def group_in(self, path: str) -> str:
        if self.groups in (None, FOLDER, COLUMN):
            return ""
        found = re.search(self.groups, path)
        return found[1] or "" if found else ""

    def ungrouped(self, category: str, candidates: Sequence[Candidate]) -> list[Problem]:
        """A warning of the training images that are in no group, and so count as groups of their own."""
        alone = [each.path for each in candidates if each.split == "train" and not each.group]
        if self.groups is None or not alone:
            return []
        message = f"{counted(alone, 'training image')} in no group by datasets.<name>.groups: each counts as its own"
        return [Problem(category, message, "warning")]
