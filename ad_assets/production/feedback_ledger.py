"""What people say of images after an inspection, in a ledger that only grows: false alarm, missed, confirmed.

A verdict stands until it is undone, until another verdict on the same image follows, or until a person decides the
opposite with ``quarantine``. It decides as a person would there: a false alarm is admitted, a missed or confirmed
defect is rejected, by content and whether or not the image has landed. When the verdict stands no more, the decision
made with ``quarantine``, if any, counts again. `after` is the table of these rules.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import StringConstraints

from ad_assets.config.faults import ConfigError
from ad_assets.production.lasting_records import LastingRecord
from ad_assets.store.store import ArtifactStore

Decision = Literal["admit", "reject"]
Verdict = Literal["false_alarm", "missed", "confirmed"]
DECIDES: Mapping[Verdict, Decision] = {"false_alarm": "admit", "missed": "reject", "confirmed": "reject"}
Said = Literal["false_alarm", "missed", "confirmed", "undone", "withdrawn"]
_VERDICT_OF: Mapping[Said, Verdict | None] = {
    "false_alarm": "false_alarm",
    "missed": "missed",
    "confirmed": "confirmed",
    "undone": None,
    "withdrawn": None,
}
ImageContent = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class FeedbackError(ConfigError):
    """Feedback cannot be given; the message says why, and what to do."""


@dataclass(frozen=True)
class Feedback:
    """One entry of the ledger.

    Args:
        image: sha256 of the image's file.
        said: a verdict; ``undone`` by a person; ``withdrawn`` by an opposite decision.
        when: ISO 8601, UTC.
        reason: in the words of whoever said it.
        path: of the file in the watched folder that feedback wrote for this verdict; empty: it wrote none.
        size: of that file, in bytes.
        key: of the message that said it, where it came from a line's computer, by which it is taken in once.
    """

    image: ImageContent
    said: Said
    when: str
    reason: str = ""
    path: str = ""
    size: int = 0
    key: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """The verdict that it gives; None where it ends one."""
        return _VERDICT_OF[self.said]


@dataclass(frozen=True)
class Ledger:
    """All that was said of the images of a category, oldest first."""

    entries: tuple[Feedback, ...] = ()

    def standing(self) -> dict[str, Feedback]:
        """Image -> the verdict on it that stands."""
        last = {entry.image: entry for entry in self.entries}
        return {image: entry for image, entry in last.items() if entry.verdict}

    def decisions(self) -> dict[str, Decision]:
        """Image -> the decision that its standing verdict makes."""
        return {image: DECIDES[entry.verdict] for image, entry in self.standing().items() if entry.verdict}

    @property
    def images(self) -> set[str]:
        """All images that anything was ever said of."""
        return {entry.image for entry in self.entries}


LEDGER: LastingRecord[Ledger] = LastingRecord(Ledger, Ledger, "what people said of inspected images")


def after(
    decision: Decision | None, verdict: Verdict | None, action: Decision | Verdict | Literal["undo"]
) -> tuple[Decision | None, Verdict | None]:
    """What holds of an image once a person has acted.

    Args:
        decision: the last one made with ``quarantine``; None: none was.
        verdict: the one that stands; None: none does.
        action: what the person does.

    Returns:
        The same two, afterwards.

    Raises:
        FeedbackError: there is nothing to undo.
    """
    if action == "undo":
        if verdict is None:
            raise FeedbackError("no feedback on it stands, so there is none to undo")
        return decision, None
    if action == "admit" or action == "reject":
        return action, verdict if verdict and DECIDES[verdict] == action else None
    return decision, action


def ledger_path(dataset: str, category: str) -> str:
    """Path in the store of the ledger of a category."""
    return f"feedback/{dataset}/{category}.json"


def read_ledger(store: ArtifactStore, dataset: str, category: str) -> Ledger:
    """The ledger of a category; empty before the first feedback.

    Raises:
        DamagedRecordError: it cannot be read.
    """
    return LEDGER.read(store, ledger_path(dataset, category))


def add_entries(
    store: ArtifactStore, dataset: str, category: str, entries: Callable[[Ledger], tuple[Feedback, ...]]
) -> Ledger:
    """Add entries atomically; `entries` is called again if another process wrote meanwhile.

    Raises:
        DamagedRecordError: the ledger cannot be read; it is not changed.
    """
    return LEDGER.update(
        store, ledger_path(dataset, category), lambda before: Ledger((*before.entries, *entries(before)))
    )


def written_files(store: ArtifactStore, dataset: str, category: str) -> dict[str, int]:
    """Path -> size of the files that feedback wrote into the watched folder, each in one piece."""
    entries = read_ledger(store, dataset, category).standing().values()
    return {entry.path: entry.size for entry in entries if entry.path}


def false_alarms(store: ArtifactStore, dataset: str, category: str) -> dict[str, str]:
    """Content of each image that a person called a false alarm -> when, while that stands.

    Raises:
        DamagedRecordError: the ledger cannot be read.
    """
    standing = read_ledger(store, dataset, category).standing()
    return {image: entry.when for image, entry in standing.items() if entry.verdict == "false_alarm"}


def now() -> str:
    """The present time as entries have it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
