"""Who is admitted to a category, who is held back, and what people decided: three words on every training image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from ad_assets.config.benchmark import fingerprint
from ad_assets.production.lasting_records import DamagedRecordError, LastingRecord
from ad_assets.store.store import ArtifactStore

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
    """The training images of a category, as far as they were judged.

    Args:
        admitted: their ids.
        held: by id.
        decided: on how many images people had decided when this was written. It never falls, so a decisions file with
            fewer has been lost. None: written before there was this count.
    """

    admitted: tuple[str, ...]
    held: Mapping[str, Held]
    decided: int | None = None


NOBODY = Admissions((), {}, 0)
DECISIONS = "(decisions)"  # among the stamps of files
NEW_STORE = "ad-assets materialize --new-store"


_ImageId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
_DECISIONS: LastingRecord[dict[str, Decision]] = LastingRecord(
    dict[_ImageId, Decision], dict, "what people decided on images"
)
ADMISSIONS: LastingRecord[Admissions] = LastingRecord(
    Admissions, lambda: NOBODY, "which training images are admitted and which are held"
)


def decisions_path(dataset: str, category: str) -> str:
    """Where the decisions of people on images of a category lie."""
    return f"decisions/{dataset}/{category}.json"


def read_decisions(store: ArtifactStore, dataset: str, category: str) -> dict[str, Decision]:
    """Image id -> what a person decided.

    Raises:
        DamagedRecordError: the decisions, or the admissions that count them, cannot be read, or decisions are lost.
    """
    # The count first: decisions that are made meanwhile are in the file before they are counted.
    known = read_admissions(store, dataset, category).decided or 0
    decisions = _DECISIONS.read(store, decisions_path(dataset, category))
    refuse_loss(store, dataset, category, decisions, known)
    return decisions


def refuse_loss(
    store: ArtifactStore, dataset: str, category: str, decisions: Mapping[str, Decision], known: int
) -> None:
    """See that a category has all the decisions that are known to have been made.

    Raises:
        DamagedRecordError: it has fewer.
    """
    if len(decisions) < known:
        raise DamagedRecordError(
            f"{store.location(decisions_path(dataset, category))} holds {len(decisions)} of at least {known} decisions "
            f"that people made on images of {category}: put back a newer copy of it; if they may be forgotten, run "
            f"{NEW_STORE}"
        )


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
        DamagedRecordError: the decisions so far cannot be read, or are lost.
    """
    recorded: dict[str, Decision | None] = {}
    known = read_admissions(store, dataset, category).decided or 0

    def change(before: dict[str, Decision]) -> dict[str, Decision]:
        nonlocal recorded
        refuse_loss(store, dataset, category, before, known)
        recorded = {image: before.get(image) for image in images if not (undecided_only and image in before)}
        return {**before, **dict.fromkeys(recorded, decision)}

    after = _DECISIONS.update(store, decisions_path(dataset, category), change)
    if has_admissions(store, dataset, category):
        update_admissions(store, dataset, category, lambda before: counted(before, after))
    return recorded


def counted(admissions: Admissions, decisions: Mapping[str, Decision]) -> Admissions:
    """Admissions that know of some decisions."""
    return replace(admissions, decided=max(admissions.decided or 0, len(decisions)))


def accept_losses(store: ArtifactStore, dataset: str, category: str) -> None:
    """Take admissions that are gone for none, and decisions that are gone for never made.

    Raises:
        DamagedRecordError: what is there cannot be read.
    """
    decisions = _DECISIONS.read(store, decisions_path(dataset, category))
    update_admissions(store, dataset, category, lambda before: replace(before, decided=len(decisions)))


def decision_stamp(store: ArtifactStore, dataset: str, category: str) -> dict[str, list[Any]]:
    """The decisions as an entry among the stamps of files, which change when people decide; none before they did."""
    decisions = read_decisions(store, dataset, category)
    return {DECISIONS: [len(decisions), fingerprint(decisions)]} if decisions else {}


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
