"""The ledger of a sealed test set: each time that labels of its test images were read, when and for which lane.

A test set that is looked at often enough is a training set: of many lanes one is good on it by chance. How often it was
opened, and by how many variants, stands beside the results. Entries are only ever added.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ad_assets.production.feedback_ledger import now
from ad_assets.production.lasting_records import LastingRecord
from ad_assets.store.store import ArtifactStore

NEVER = "its labels were never read by lanes of this store"


@dataclass(frozen=True)
class Opening:
    """One reading of the labels of a category.

    Args:
        when: ISO 8601, UTC.
        reader: the asset that read them, or the command and the lane.
        address: fingerprint of what was judged by them; equal for equal settings on equal images.
    """

    when: str
    reader: str
    address: str


@dataclass(frozen=True)
class Openings:
    """All readings of the labels of a category, oldest first."""

    entries: tuple[Opening, ...] = ()


LEDGER: LastingRecord[Openings] = LastingRecord(Openings, Openings, "when the labels of a sealed test set were read")


def openings_path(dataset: str, category: str) -> str:
    """Path in the store of the ledger of a category."""
    return f"openings/{dataset}/{category}.json"


def record_opening(store: ArtifactStore, dataset: str, category: str, reader: str, address: str) -> None:
    """Add an entry; to be called before a label is read, so that none is read unseen.

    Raises:
        DamagedRecordError: the ledger cannot be read; it is not changed.
    """
    opening = Opening(now(), reader, address)
    LEDGER.update(store, openings_path(dataset, category), lambda before: Openings((*before.entries, opening)))


def told_openings(store: ArtifactStore, dataset: str, categories: Iterable[str]) -> str:
    """How often a test set was opened, and for how many variants, in words; empty if it never was.

    Raises:
        DamagedRecordError: a ledger cannot be read.
    """
    ledgers = [LEDGER.read(store, openings_path(dataset, category)).entries for category in categories]
    entries = [entry for ledger in ledgers for entry in ledger]
    if not entries:
        return ""
    readers = sorted({entry.reader for entry in entries})
    most, variants = max(map(len, ledgers)), max(len({entry.address for entry in ledger}) for ledger in ledgers)
    return (
        f"labels of a category were read up to {_counted(most, 'time')}, for {_counted(variants, 'variant')} "
        f"({', '.join(readers[:6])}{', ...' if len(readers) > 6 else ''}), first {min(e.when for e in entries)}, last "
        f"{max(e.when for e in entries)}"
    )


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
