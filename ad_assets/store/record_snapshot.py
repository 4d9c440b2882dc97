"""The records below a folder of an object store in one object, so that a reader of many makes one request and not many.

A snapshot is a cache that may lag behind: a reader lists the folder and takes from the snapshot only what still has the
ETag that the listing gives, so that whichever of several writers was the last, nothing out of date is read. Each record
in it keeps its own checksum. A snapshot that is absent or damaged, or may not be written, costs requests and no more.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ad_assets.store.checksums import DamagedError, opened_record, sealed_record

if TYPE_CHECKING:
    from ad_assets.store.store import ArtifactStore

_LOG = logging.getLogger(__name__)
Stamped = tuple[str, dict[str, Any]]  # the ETag of a record, and the record


def snapshot_path(folder: str) -> str:
    """Where the snapshot of a folder lies."""
    return f"snapshots/{folder}.json.gz"


def read_snapshot(store: ArtifactStore, folder: str, stamps: Mapping[str, str]) -> dict[str, Stamped]:
    """Path -> stamp and record of those that the snapshot of a folder has and that are still the same.

    Args:
        store: the store.
        folder: its folder.
        stamps: path -> stamp of what lies there now.
    """
    try:
        stored = json.loads(gzip.decompress(store.fetch(snapshot_path(folder))))
        same = {path: (stamp, record) for path, (stamp, record) in stored.items() if stamps.get(path) == stamp}
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError) as error:
        _LOG.debug("the snapshot of %s cannot be read: %s", store.location(folder), error)
        return {}
    found: dict[str, Stamped] = {}
    for path, (stamp, record) in same.items():
        try:
            found[path] = stamp, opened_record(path, record)
        except DamagedError:  # the record itself is read instead
            continue
    return found


def write_snapshot(store: ArtifactStore, folder: str, records: Mapping[str, Stamped]) -> None:
    """Replace the snapshot of a folder; one that may only read a store goes on without."""
    sealed = {path: [stamp, sealed_record(path, record)] for path, (stamp, record) in sorted(records.items())}
    try:
        store.write_bytes(snapshot_path(folder), gzip.compress(json.dumps(sealed).encode(), 1, mtime=0))
    except OSError as error:
        _LOG.debug("the snapshot of %s cannot be written: %s", store.location(folder), error)
