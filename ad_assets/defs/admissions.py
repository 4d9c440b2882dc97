"""Who is admitted to a category, who is held back, and what people decided: three words on every training image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ad_assets.benchmark import fingerprint
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


def decisions_path(dataset: str, category: str) -> str:
    """Where the decisions of people on images of a category lie."""
    return f"decisions/{dataset}/{category}.json"


def read_decisions(store: ArtifactStore, dataset: str, category: str) -> dict[str, Decision]:
    """Image id -> what a person decided."""
    try:
        found: dict[str, Decision] = store.read_json(decisions_path(dataset, category))
    except FileNotFoundError:
        return {}
    return found


def decide(store: ArtifactStore, dataset: str, category: str, images: Sequence[str], decision: Decision) -> None:
    """Record what a person decided on some images, by id."""
    decisions = {**read_decisions(store, dataset, category), **dict.fromkeys(images, decision)}
    store.write_json(decisions_path(dataset, category), decisions)


def decision_stamp(store: ArtifactStore, dataset: str, category: str) -> dict[str, list[Any]]:
    """The decisions as an entry among the stamps of files, which change when people decide; none before they did."""
    decisions = read_decisions(store, dataset, category)
    return {"(decisions)": [len(decisions), fingerprint(decisions)]} if decisions else {}


def read_admissions(store: ArtifactStore, dataset: str, category: str) -> Admissions:
    """Who was admitted and who is held; nobody before the first index."""
    try:
        stored = store.read_json(_admissions_path(dataset, category))
    except FileNotFoundError:
        return Admissions()
    held = {image: Held(**{**entry, "reasons": tuple(entry["reasons"])}) for image, entry in stored["held"].items()}
    return Admissions(tuple(stored["admitted"]), held)


def write_admissions(store: ArtifactStore, dataset: str, category: str, admissions: Admissions) -> None:
    """Write who was admitted and who is held."""
    store.write_json(_admissions_path(dataset, category), asdict(admissions))


def held_picture_path(dataset: str, category: str, image: str) -> str:
    """Where the picture of a held image lies, for who decides; only one that a detector scored has one."""
    return f"held/{dataset}/{category}/{image}.jpg"


def _admissions_path(dataset: str, category: str) -> str:
    return f"admissions/{dataset}/{category}.json"
