"""What becomes of builds that fail: which are repeated within a run, and which automation tries again.

A build that fails for a reason that may pass is repeated twice in its run, after pauses, and then left for the next run
of automation, a few times. One that fails for any other reason fails at once, and automation leaves it alone until what
it would be made from changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ad_assets.datasets.files import ChangedFileError
from ad_assets.interrupts import when_interrupted
from ad_assets.store.local import NoSpaceError
from ad_assets.store.records import update_record, write_record
from ad_assets.store.retry import StorageError, may_pass
from ad_assets.store.store import ArtifactStore

ATTEMPT = ("version", "count", "error")  # what the record of an attempt must have
MOST_ATTEMPTS = 3  # runs that did not finish a build of one address before automation gives up


def mends_itself(error: BaseException) -> bool:
    """Whether repeating a build a little later may help: storage that does not answer, memory that others hold."""
    return (
        isinstance(error, StorageError | MemoryError)
        or may_pass(error)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not worth importing torch for
    )


def attempt_path(key: Sequence[str], partition: str | None) -> str:
    """Where a build leaves word of itself until it succeeds, so that automation does not try for ever."""
    return "/".join(["attempts", *key, f"{partition or '_'}.json"])


@contextmanager
def attempted(
    store: ArtifactStore, key: Sequence[str], partition: str | None, version: str, *, again: bool = False
) -> Iterator[None]:
    """Keep account of a build: an attempt that failed or was cut off stays on record, with the address it was for.

    Its error is left out where the build itself is not to blame: then it counts as one that was cut off.

    Args:
        store: where the record lies.
        key: the asset.
        partition: its category.
        version: the address.
        again: whether this repeats, within a run, an attempt on record.
    """
    path = attempt_path(key, partition)
    before: dict[str, Any] | None = None

    def begun(record: dict[str, Any] | None) -> dict[str, Any]:
        nonlocal before
        before = record
        count = record["count"] if record and record["version"] == version else 0
        return {"version": version, "count": max(1, count + (not again)), "error": ""}

    def failed(record: dict[str, Any] | None) -> dict[str, Any]:
        if record and record["version"] != version:  # another process builds another address by now
            return record
        return {"version": version, "count": record["count"] if record else 1, "error": told}

    update_record(store, path, begun, *ATTEMPT)
    with when_interrupted(lambda: _put_back(store, path, before)):
        try:
            yield
        except Exception as error:
            if not (mends_itself(error) or isinstance(error, NoSpaceError | ChangedFileError)):
                told = f"{type(error).__name__}: {error}"
                with suppress(OSError):  # what the build said matters more
                    update_record(store, path, failed, *ATTEMPT)
            raise
        except BaseException:
            _put_back(store, path, before)
            raise
    store.delete([path])


def _put_back(store: ArtifactStore, path: str, before: dict[str, Any] | None) -> None:
    """Whoever interrupts a build says nothing about it: it is neither failed nor cut off."""
    if before:
        write_record(store, path, before)
    else:
        store.delete([path])
