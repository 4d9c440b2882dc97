"""Who is admitted to a category, who is held back, and what people decided: three words on every training image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from ad_assets.benchmark import fingerprint
from ad_assets.defs.lasting import LastingRecord
from resources.store import ArtifactStore

Decision = Literal["admit", "reject"]


@dataclass(frozen=True)
class Held:
    """An image that is held back: where it lies, why, since when (ISO 8601, UTC), and its score where it has one."""

    path: str
    reasons: tuple[str, ...]
    since: str
    score: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Admissions:
    """The training images of a category, as far as they were judged: ids of the admitted, and the held by id."""

    admitted: tuple[str, ...] = ()
    held: Mapping[str, Held] = field(default_factory=dict)


_ImageId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
_DECISIONS: LastingRecord[dict[str, Decision]] = LastingRecord(
    dict[_ImageId, Decision], dict, "what people decided on images"
)
ADMISSIONS: LastingRecord[Admissions] = LastingRecord(
    Admissions, Admissions, "which training images are admitted and which are held"
)


def decisions_path(dataset: str, category: str) -> str:
    """Where the decisions of people on images of a category lie."""
    return f"decisions/{dataset}/{category}.json"


def read_decisions(store: ArtifactStore, dataset: str, category: str) -> dict[str, Decision]:
    """Image id -> what a person decided.

    Raises:
        DamagedRecordError: the decisions cannot be read.
    """
    return _DECISIONS.read(store, decisions_path(dataset, category))


def decide(
    store: ArtifactStore,
    dataset: str,
    category: str,
    images: Sequence[str],
    decision: Decision,
    *,
    undecided_only: bool = False,
) -> dict[str, Decision | None]:
    """Record what a person decided on some images.

    Args:
        store: where decisions lie.
        dataset: of the images.
        category: of the images.
        images: their ids.
        decision: on all of them.
        undecided_only: leave alone what was decided before, by whomever: a decision stands until it is taken back by
            name.

    Returns:
        The images that it was recorded on, each with what was decided before.

    Raises:
        DamagedRecordError: the decisions so far cannot be read.
    """
    recorded: dict[str, Decision | None] = {}

    def change(before: dict[str, Decision]) -> dict[str, Decision]:
        nonlocal recorded
        recorded = {image: before.get(image) for image in images if not (undecided_only and image in before)}
        return {**before, **dict.fromkeys(recorded, decision)}

    _DECISIONS.update(store, decisions_path(dataset, category), change)
    return recorded


def decision_stamp(store: ArtifactStore, dataset: str, category: str) -> dict[str, list[Any]]:
    """The decisions as an entry among the stamps of files, which change when people decide; none before they did."""
    decisions = read_decisions(store, dataset, category)
    return {"(decisions)": [len(decisions), fingerprint(decisions)]} if decisions else {}


def read_admissions(store: ArtifactStore, dataset: str, category: str) -> Admissions:
    """Who was admitted and who is held; nobody before the first index.

    Raises:
        DamagedRecordError: the admissions cannot be read.
    """
    return ADMISSIONS.read(store, _admissions_path(dataset, category))


def update_admissions(
    store: ArtifactStore, dataset: str, category: str, change: Callable[[Admissions], Admissions]
) -> Admissions:
    """Change who is admitted and who is held; `change` is called again if another run was faster."""
    return ADMISSIONS.update(store, _admissions_path(dataset, category), change)


def has_admissions(store: ArtifactStore, dataset: str, category: str) -> bool:
    """Whether the training images of a category were ever judged."""
    return store.exists(_admissions_path(dataset, category))


def held_picture_path(dataset: str, category: str, image: str) -> str:
    """Where the picture of a held image lies, for who decides; only one that a detector scored has one."""
    return f"held/{dataset}/{category}/{image}.jpg"


def _admissions_path(dataset: str, category: str) -> str:
    return f"admissions/{dataset}/{category}.json"
