"""Records: small JSON objects that are replaced as things change, each with a checksum that covers its path too.

Most can be computed again: heads, build attempts, facts of scanned files. Of these a damaged one counts as absent, with
a warning (`recall`). Damage of others is an error (`read_record`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ad_assets.store.checksums import CorruptArtifactError, DamagedError, opened_record, sealed_record

if TYPE_CHECKING:
    from ad_assets.store.compare_and_swap import Seen
    from ad_assets.store.files import FileStore
    from ad_assets.store.store import ArtifactStore

_LOG = logging.getLogger(__name__)
_WARNED: set[str] = set()  # messages about damaged records, each logged once per process


def encoded(path: str, record: Mapping[str, Any]) -> bytes:
    """The bytes of a record to store at a path; NaN and infinities raise ValueError."""
    return json.dumps(sealed_record(path, record), indent=1, sort_keys=True, allow_nan=False).encode()


def write_record(store: ArtifactStore, path: str, record: Mapping[str, Any]) -> None:
    """Write a record."""
    store.write_bytes(path, encoded(path, record))


def read_record(store: FileStore, path: str, *names: str, remedy: str = "") -> dict[str, Any]:
    """The record at a path.

    Args:
        store: the store.
        path: its path.
        names: keys that it must have.
        remedy: remedy for the message if it is damaged; empty: the command that rebuilds assets.

    Raises:
        FileNotFoundError: there is none.
        CorruptArtifactError: it is damaged, or was written for another path.
    """
    return read_stamped_record(store, path, *names, remedy=remedy)[1]


def read_stamped_record(store: FileStore, path: str, *names: str, remedy: str = "") -> tuple[str, dict[str, Any]]:
    """As `read_record`, with the stamp of what was read as `FileStore.fetch_stamped` has it."""
    data, stamp = store.fetch_stamped(path)
    return stamp, _opened(store, path, data, names, remedy)


def update_record(
    store: FileStore,
    path: str,
    change: Callable[[dict[str, Any] | None], dict[str, Any]],
    *names: str,
    seen: Seen | None = None,
) -> None:
    """Change a record atomically, so that no change of several processes is lost.

    Args:
        store: the store.
        path: its path.
        change: maps the record, None where there is none or a damaged one, to the new one; called again if another
            process wrote meanwhile.
        names: keys that it must have.
        seen: see `FileStore.update`.
    """

    def changed(data: bytes | None) -> bytes:
        return encoded(path, change(opened_or_none(store, path, data, names)))

    store.update(path, changed, seen=seen)


def _opened(store: FileStore, path: str, data: bytes, names: Sequence[str], remedy: str) -> dict[str, Any]:
    try:
        record = opened_record(path, json.loads(data))
        absent = [name for name in names if name not in record]
        if absent:
            raise DamagedError(f"it has no {absent[0]}")
    except (ValueError, RecursionError) as error:
        raise store.corrupt(path, error if data else "it is empty", remedy) from error
    return record


def opened_or_none(store: FileStore, path: str, data: bytes | None, names: Sequence[str]) -> dict[str, Any] | None:
    """A record from its bytes; None where there are none, or with a logged warning where they are damaged."""
    try:
        return None if data is None else _opened(store, path, data, names, "")
    except CorruptArtifactError as error:
        warn(error)
        return None


def recall(store: FileStore, path: str, *names: str) -> dict[str, Any] | None:
    """The record at a path; None where there is none, or with a logged warning where it is damaged."""
    try:
        return read_record(store, path, *names)
    except FileNotFoundError:
        return None
    except CorruptArtifactError as error:
        warn(error)
        return None


def warn(error: CorruptArtifactError) -> None:
    """Log that a damaged record counts as absent."""
    if str(error) not in _WARNED:
        _WARNED.add(str(error))
        _LOG.warning("%s; until then it counts as absent", error)
