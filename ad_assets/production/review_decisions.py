"""Which training images are admitted or held back, and what people decided about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ad_assets.config.benchmark import fingerprint
from ad_assets.production.feedback_ledger import (
    Decision,
    Feedback,
    ImageContent,
    Ledger,
    add_entries,
    after,
    ledger_path,
    now,
    read_ledger,
)
from ad_assets.production.lasting_records import DamagedRecordError, LastingRecord
from ad_assets.store.store import ArtifactStore


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
        decided: number of decisions that people had made when this was written, see `Reviews.count`. It never
            decreases, so files with fewer were lost. None in records older than this count.
        hold_out: which images are kept for judging, once some are; None before.
    """

    admitted: tuple[str, ...]
    held: Mapping[str, Held]
    decided: int | None = None
    hold_out: HoldOut | None = None


NONE_ADMITTED = Admissions((), {}, 0)
DECISIONS = "(decisions)"  # key among the stamps of files
NEW_STORE = "ad-assets materialize --new-store"


_DECISIONS: LastingRecord[dict[str, Decision]] = LastingRecord(
    dict[ImageContent, Decision], dict, "what people decided on images"
)
ADMISSIONS: LastingRecord[Admissions] = LastingRecord(
    Admissions, lambda: NONE_ADMITTED, "which training images are admitted and which are held"
)


def decisions_path(dataset: str, category: str) -> str:
    """Path in the store of the decisions about images of a category."""
    return f"decisions/{dataset}/{category}.json"


@dataclass(frozen=True)
class Reviews:
    """What people said of the images of a category: decisions of ``quarantine``, and the ledger of feedback."""

    decisions: Mapping[str, Decision]
    ledger: Ledger

    @property
    def in_force(self) -> dict[str, Decision]:
        """Image -> what counts: what a standing verdict decides, else the decision."""
        return {**self.decisions, **self.ledger.decisions()}

    @property
    def count(self) -> int:
        """How many images were decided on, and how many had feedback; neither number decreases."""
        return len(self.decisions) + len(self.ledger.images)


def read_reviews(store: ArtifactStore, dataset: str, category: str) -> Reviews:
    """What people said of the images of a category.

    Raises:
        DamagedRecordError: decisions, ledger, or the admissions that count them, cannot be read, or some are lost.
    """
    # The count is read first: what is new is in its file before it is counted.
    counted_before = read_admissions(store, dataset, category).decided or 0
    reviews = _reviews(store, dataset, category)
    refuse_loss(store, dataset, category, reviews.count, counted_before)
    return reviews


def _reviews(store: ArtifactStore, dataset: str, category: str) -> Reviews:
    decisions = _DECISIONS.read(store, decisions_path(dataset, category))
    return Reviews(decisions, read_ledger(store, dataset, category))


def read_decisions(store: ArtifactStore, dataset: str, category: str) -> dict[str, Decision]:
    """Image content -> what a person decided, by quarantine or by feedback; see `Reviews.in_force`.

    Raises:
        DamagedRecordError: as `read_reviews`.
    """
    return read_reviews(store, dataset, category).in_force


def decided_images(store: ArtifactStore) -> set[str]:
    """The content hashes of all images that people decided on or said something of, in all datasets.

    Raises:
        DamagedRecordError: decisions cannot be read.
    """
    decided = {image for file in store.files("decisions") for image in _DECISIONS.read(store, file.path)}
    places = (file.path.removesuffix(".json").split("/") for file in store.files("feedback"))
    return decided.union(*(read_ledger(store, place[1], place[2]).images for place in places if len(place) == 3))


def reviewed_categories(store: ArtifactStore, dataset: str) -> set[str]:
    """The categories of a dataset in which people decided anything, by two listings."""
    files = (file.path for folder in ("decisions", "feedback") for file in store.files(f"{folder}/{dataset}"))
    return {path.rpartition("/")[2].removesuffix(".json") for path in files if path.endswith(".json")}


def refuse_loss(store: ArtifactStore, dataset: str, category: str, count: int, counted_before: int) -> None:
    """Check that a category has at least `counted_before` decisions, given that it has `count`.

    Raises:
        DamagedRecordError: it has fewer.
    """
    if count < counted_before:
        raise DamagedRecordError(
            f"{store.location(decisions_path(dataset, category))} holds {count} of at least {counted_before} "
            f"decisions that people made on images of {category}, with {ledger_path(dataset, category)} beside it: "
            f"restore a newer copy of both; if they may be lost, run {NEW_STORE}"
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
    """Record a person's decision about images. It withdraws feedback that says the opposite.

    Args:
        store: the store of decisions.
        dataset: of the images.
        category: of the images.
        images: their contents.
        decision: the decision about all of them.
        undecided_only: skip images with an earlier decision, which is only replaced by naming the image.

    Returns:
        Image -> earlier decision, for the images that it was recorded for.

    Raises:
        DamagedRecordError: the decisions so far cannot be read, or are lost.
    """
    recorded: dict[str, Decision | None] = {}
    in_force = read_reviews(store, dataset, category).in_force
    counted_before = read_admissions(store, dataset, category).decided or 0

    def change(before: dict[str, Decision]) -> dict[str, Decision]:
        nonlocal recorded
        ledger = read_ledger(store, dataset, category)
        refuse_loss(store, dataset, category, Reviews(before, ledger).count, counted_before)
        known = {**in_force, **before, **ledger.decisions()}
        recorded = {image: known.get(image) for image in images if not (undecided_only and image in known)}
        return {**before, **dict.fromkeys(recorded, decision)}

    def withdrawn(ledger: Ledger) -> tuple[Feedback, ...]:
        standing = ledger.standing()
        opposed = [i for i in images if i in standing and not after(None, standing[i].verdict, decision)[1]]
        return tuple(Feedback(image, "withdrawn", now(), f"a person decided to {decision} it") for image in opposed)

    if not undecided_only and withdrawn(read_ledger(store, dataset, category)):
        add_entries(store, dataset, category, withdrawn)
    _DECISIONS.update(store, decisions_path(dataset, category), change)
    count_reviews(store, dataset, category)
    return recorded


def count_reviews(store: ArtifactStore, dataset: str, category: str) -> None:
    """Note how many decisions there are, once a category has admissions."""
    if has_admissions(store, dataset, category):
        count = _reviews(store, dataset, category).count
        update_admissions(store, dataset, category, lambda before: counted(before, count))


def counted(admissions: Admissions, count: int) -> Admissions:
    """The admissions with the number of decisions updated."""
    return replace(admissions, decided=max(admissions.decided or 0, count))


def accept_losses(store: ArtifactStore, dataset: str, category: str) -> None:
    """Accept that admissions and decisions were lost: missing ones count as never made.

    Raises:
        DamagedRecordError: an existing record cannot be read.
    """
    count = _reviews(store, dataset, category).count
    update_admissions(store, dataset, category, lambda before: replace(before, decided=count))


def decision_stamp(store: ArtifactStore, dataset: str, category: str) -> dict[str, list[Any]]:
    """The decisions as an entry among the stamps of files, so that a decision counts as a change; {} without any."""
    reviews = read_reviews(store, dataset, category)
    if not reviews.count:
        return {}
    said = {image: entry.said for image, entry in reviews.ledger.standing().items()}
    values = [reviews.decisions, said] if reviews.ledger.entries else reviews.decisions
    return {DECISIONS: [reviews.count, fingerprint(values)]}


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


def admitted_categories(store: ArtifactStore, dataset: str) -> set[str]:
    """The categories of a dataset whose training images ever passed the gate, by one listing."""
    paths = (file.path for file in store.files(f"admissions/{dataset}"))
    return {path.rpartition("/")[2].removesuffix(".json") for path in paths if path.endswith(".json")}


def held_picture_path(dataset: str, category: str, image: str) -> str:
    """Path in the store of the picture of a held image."""
    return f"held/{dataset}/{category}/{image}.jpg"


def _admissions_path(dataset: str, category: str) -> str:
    return f"admissions/{dataset}/{category}.json"
