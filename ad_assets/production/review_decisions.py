"""Which training images are admitted or held back, and what people decided about them."""

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
    """A held image: path, reasons, time (ISO 8601, UTC), and its score and the threshold where it was scored."""

    path: str
    reasons: tuple[str, ...]
    since: str
    score: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class HoldOut:
    """Which images are kept for judging: the share that was asked for, and the place up to which they are."""

    share: float
    up_to: float


@dataclass(frozen=True)
class Admissions:
    """State of the training images of a category.

    Args:
        admitted: ids of the admitted images.
        held: id -> held image.
        decided: number of images that people had decided on when this was written. It never decreases, so a decisions
            file with fewer entries was lost. None in records older than this count.
        hold_out: which images are kept for judging, once some are; None before.
    """

    admitted: tuple[str, ...]
    held: Mapping[str, Held]
    decided: int | None = None
    hold_out: HoldOut | None = None


NONE_ADMITTED = Admissions((), {}, 0)
DECISIONS = "(decisions)"  # key among the stamps of files
NEW_STORE = "ad-assets materialize --new-store"


_ImageId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
_DECISIONS: LastingRecord[dict[str, Decision]] = LastingRecord(
    dict[_ImageId, Decision], dict, "what people decided on images"
)
ADMISSIONS: LastingRecord[Admissions] = LastingRecord(
    Admissions, lambda: NONE_ADMITTED, "which training images are admitted and which are held"
)


def decisions_path(dataset: str, category: str) -> str:
    """Path in the store of the decisions about images of a category."""
    return f"decisions/{dataset}/{category}.json"


def read_decisions(store: ArtifactStore, dataset: str, category: str) -> dict[str, Decision]:
    """Image id -> what a person decided.

    Raises:
        DamagedRecordError: the decisions, or the admissions that count them, cannot be read, or decisions are lost.
    """
    # The count is read first: new decisions are in the file before they are counted.
    counted_before = read_admissions(store, dataset, category).decided or 0
    decisions = _DECISIONS.read(store, decisions_path(dataset, category))
    refuse_loss(store, dataset, category, decisions, counted_before)
    return decisions


def decided_images(store: ArtifactStore) -> set[str]:
    """The content hashes of all images that people decided on, in all datasets.

    Raises:
        DamagedRecordError: decisions cannot be read.
    """
    return {image for file in store.files("decisions") for image in _DECISIONS.read(store, file.path)}


def refuse_loss(
    store: ArtifactStore, dataset: str, category: str, decisions: Mapping[str, Decision], counted_before: int
) -> None:
    """Check that a category has at least `counted_before` decisions.

    Raises:
        DamagedRecordError: it has fewer.
    """
    if len(decisions) < counted_before:
        raise DamagedRecordError(
            f"{store.location(decisions_path(dataset, category))} holds {len(decisions)} of at least {counted_before} "
            f"decisions that people made on images of {category}: restore a newer copy of it; if they may be lost, run "
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
    """Record a person's decision about images.

    Args:
        store: the store of decisions.
        dataset: of the images.
        category: of the images.
        images: their ids.
        decision: the decision about all of them.
        undecided_only: skip images with an earlier decision, which is only replaced by naming the image.

    Returns:
        Image id -> earlier decision, for the images that it was recorded for.

    Raises:
        DamagedRecordError: the decisions so far cannot be read, or are lost.
    """
    recorded: dict[str, Decision | None] = {}
    counted_before = read_admissions(store, dataset, category).decided or 0

    def change(before: dict[str, Decision]) -> dict[str, Decision]:
        nonlocal recorded
        refuse_loss(store, dataset, category, before, counted_before)
        recorded = {image: before.get(image) for image in images if not (undecided_only and image in before)}
        return {**before, **dict.fromkeys(recorded, decision)}

    after = _DECISIONS.update(store, decisions_path(dataset, category), change)
    if has_admissions(store, dataset, category):
        update_admissions(store, dataset, category, lambda before: counted(before, after))
    return recorded


def counted(admissions: Admissions, decisions: Mapping[str, Decision]) -> Admissions:
    """The admissions with the number of decisions updated."""
    return replace(admissions, decided=max(admissions.decided or 0, len(decisions)))


def accept_losses(store: ArtifactStore, dataset: str, category: str) -> None:
    """Accept that admissions and decisions were lost: missing ones count as never made.

    Raises:
        DamagedRecordError: an existing record cannot be read.
    """
    decisions = _DECISIONS.read(store, decisions_path(dataset, category))
    update_admissions(store, dataset, category, lambda before: replace(before, decided=len(decisions)))


def decision_stamp(store: ArtifactStore, dataset: str, category: str) -> dict[str, list[Any]]:
    """The decisions as an entry among the stamps of files, so that a decision counts as a change; {} without any."""
    decisions = read_decisions(store, dataset, category)
    return {DECISIONS: [len(decisions), fingerprint(decisions)]} if decisions else {}


def read_admissions(store: ArtifactStore, dataset: str, category: str) -> Admissions:
    """The admitted and held images; none before the first index.

    Raises:
        DamagedRecordError: the admissions cannot be read.
    """
    return ADMISSIONS.read(store, _admissions_path(dataset, category))


def update_admissions(
    store: ArtifactStore, dataset: str, category: str, change: Callable[[Admissions], Admissions]
) -> Admissions:
    """Change the admissions atomically; `change` is called again if another run wrote meanwhile."""
    return ADMISSIONS.update(store, _admissions_path(dataset, category), change)


def has_admissions(store: ArtifactStore, dataset: str, category: str) -> bool:
    """Whether the training images of a category ever passed the gate."""
    return store.exists(_admissions_path(dataset, category))


def held_picture_path(dataset: str, category: str, image: str) -> str:
    """Path in the store of the picture of a held image; only images scored by a detector have one."""
    return f"held/{dataset}/{category}/{image}.jpg"


def _admissions_path(dataset: str, category: str) -> str:
    return f"admissions/{dataset}/{category}.json"
