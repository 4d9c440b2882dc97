"""``method: joint`` of a detector: one model for all categories, joined from what another detector learnt of each.

Nothing is extracted or fitted again: the rows of the categories' memory banks are put together, each with its image and
place. Images are scored as the other detector scores them, but against the rows of all categories, as where nobody says
which product an image shows. Thresholds stay those of each category's nominal images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ad_assets.settings.model import Settings

if TYPE_CHECKING:
    from ad_assets.config.benchmark import Detector


class Joint(Settings):
    """A detector that scores with the joined states of another detector of the same dataset."""

    name: ClassVar[str] = "joint"

    of: str = Field(description="name of the detector whose states are joined; its settings are this one's too")


def join_fault(detector: Detector) -> str:
    """Why what a detector learns of several categories cannot be joined, in words; empty where it can."""
    for category, method in {"": detector.method, **detector.categories}.items():
        if method and method.join_fault:
            return f"{method.join_fault}{f' (of category {category})' if category else ''}"
    if own := sorted(detector.stage_configs("fit")[1]):
        return f"it learns {', '.join(own)} with settings of their own, and the rows of one bank are of one kind"
    return ""
