"""The headers of all shards of a folder in one object, so that a reader makes one request and not one a shard.

A cache, as `ad_assets.store.record_snapshot`: a shard's header is taken from it only if the listing still has the shard
with the stamp that it had, and since each file in a shard has a checksum over its path, nothing else is read for it.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ad_assets.store.record_snapshot import snapshot_path
from ad_assets.store.shard_format import PackedFile

if TYPE_CHECKING:
    from ad_assets.store.packed_store import PackedStore

_LOG = logging.getLogger(__name__)
Headers = dict[str, tuple[str, list[PackedFile]]]  # shard -> stamp, and the files in it


def read_headers(store: PackedStore, folder: str, stamps: Mapping[str, str]) -> Headers:
    """Those of some shards that the snapshot of their folder has; none where it is absent or damaged.

    Args:
        store: the store.
        folder: of the shards.
        stamps: shard -> its stamp now.
    """
    try:
        stored = json.loads(gzip.decompress(store.fetch(snapshot_path(folder))))
        return {
            shard: (stamp, [PackedFile(f"{folder}/{name}", shard, *rest) for name, *rest in files])
            for shard, (stamp, files) in stored.items()
            if stamps.get(shard) == stamp
        }
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError) as error:
        _LOG.debug("the snapshot of %s cannot be read: %s", store.location(folder), error)
        return {}


def write_headers(store: PackedStore, folder: str, headers: Headers) -> None:
    """Replace the snapshot; one that may only read a store goes on without."""
    content = {
        shard: [
            stamp,
            [
                [
                    file.path.removeprefix(f"{folder}/"),
                    file.start,
                    file.size,
                    file.whole,
                    dict(file.notes),
                    file.changed,
                ]
                for file in files
            ],
        ]
        for shard, (stamp, files) in headers.items()
    }
    try:
        store.put_file(snapshot_path(folder), [gzip.compress(json.dumps(content).encode(), 1, mtime=0)])
    except OSError as error:
        _LOG.debug("the snapshot of %s cannot be written: %s", store.location(folder), error)
