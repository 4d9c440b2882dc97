"""The section ``decision`` of a dataset or a detector: how many false alarms are allowed, and what is promised by whom.

Of what a detector and its dataset say, the detector counts; of what a section says of a category and of all, the
category does. Where neither names a rate, `Evaluation.nominal_false_positive_rate` counts.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ad_assets.datasets.names import CATEGORY_KEY, CATEGORY_RULE
from ad_assets.settings.model import Settings


class CategoryDecision(Settings):
    """What is decided otherwise in one category."""

    false_alarm_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of new nominal images that may be called anomalous; null: "
        "evaluation.nominal_false_positive_rate. It needs 1 / rate - 1 nominal images",
    )


class Decision(CategoryDecision):
    """How images are called anomalous."""

    leave_out: Literal["group", "image"] | None = Field(
        None,
        description="what the nominal scores of the threshold are made without: the group of an image (that of the "
        "reader's groups, else its near-copies), or the image alone; null: group where images go on landing or a rate "
        "is asked for, else image",
    )
    categories: dict[str, CategoryDecision] = Field(
        default_factory=dict, description="category -> what is decided otherwise there"
    )

    @field_validator("categories")
    @classmethod
    def _can_be_categories(cls, categories: dict[str, CategoryDecision]) -> dict[str, CategoryDecision]:
        for name in categories:
            if not CATEGORY_KEY.fullmatch(name):
                raise ValueError(f"{name[:80]!r} is no category's name: {CATEGORY_RULE}")
        return categories

    @property
    def asks(self) -> bool:
        """Whether a rate is asked for, in any category."""
        return any(each.false_alarm_rate is not None for each in (self, *self.categories.values()))

    def rate_of(self, category: str) -> float | None:
        """The rate that is asked for a category; None: none is."""
        own = self.categories.get(category)
        return own.false_alarm_rate if own and own.false_alarm_rate is not None else self.false_alarm_rate
