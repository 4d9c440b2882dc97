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
    from ad_assets.store.store import ArtifactStore

_LOG = logging.getLogger(__name__)
_WARNED: set[str] = set()  # messages about damaged records, each logged once per process


def encoded(path: str, record: Mapping[str, Any]) -> bytes:
    """The bytes of a record to store at a path; NaN and infinities raise ValueError."""
    return json.dumps(sealed_record(path, record), indent=1, sort_keys=True, allow_nan=False).encode()


def write_record(store: ArtifactStore, path: str, record: Mapping[str, Any]) -> None:
    """Write a record."""
    store.write_bytes(path, encoded(path, record))


def read_record(store: ArtifactStore, path: str, *names: str, remedy: str = "") -> dict[str, Any]:
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


def read_stamped_record(store: ArtifactStore, path: str, *names: str, remedy: str = "") -> tuple[str, dict[str, Any]]:
    """As `read_record`, with the stamp of what was read as `FileStore.fetch_stamped` has it."""
    data, stamp = store.fetch_stamped(path)
    return stamp, _opened(store, path, data, names, remedy)


def update_record(
    store: ArtifactStore,
    path: str,
    change: Callable[[dict[str, Any] | None], dict[str, Any]],
    *names: str,
    absent: bool = False,
) -> None:
    """Change a record atomically, so that no change of several processes is lost.

    Args:
        store: the store.
        path: its path.
        change: maps the record, None where there is none or a damaged one, to the new one; called again if another
            process wrote meanwhile.
        names: keys that it must have.
        absent: there hardly ever is one: saves a request then.
    """

    def changed(data: bytes | None) -> bytes:
        before = None
        if data is not None:
            try:
                before = _opened(store, path, data, names, "")
            except CorruptArtifactError as error:
                warn(error)
        return encoded(path, change(before))

    store.update(path, changed, absent=absent)


def _opened(store: ArtifactStore, path: str, data: bytes, names: Sequence[str], remedy: str) -> dict[str, Any]:
    try:
        record = opened_record(path, json.loads(data))
        absent = [name for name in names if name not in record]
        if absent:
            raise DamagedError(f"it has no {absent[0]}")
    except (ValueError, RecursionError) as error:
        raise store.corrupt(path, error if data else "it is empty", remedy) from error
    return record


def recall(store: ArtifactStore, path: str, *names: str) -> dict[str, Any] | None:
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
