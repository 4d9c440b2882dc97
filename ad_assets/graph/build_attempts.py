"""Builds that fail: which are repeated within a run, and which automation tries again.

A build that fails for a temporary reason is repeated twice in its run, after pauses, and then left for the next run
of automation, a few times. One that runs out of memory has been tried with less of everything before, and is left for
the next run at once. One that fails for any other reason fails at once, and automation does not try it again
until its inputs change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ad_assets.datasets.files import ChangedFileError
from ad_assets.graph.out_of_memory import is_out_of_memory
from ad_assets.interrupts import when_interrupted
from ad_assets.store.compare_and_swap import ABSENT
from ad_assets.store.local import NoSpaceError
from ad_assets.store.records import update_record, write_record
from ad_assets.store.retry import StorageError, may_pass
from ad_assets.store.store import ArtifactStore

ATTEMPT = ("version", "count", "error")  # what the record of an attempt must have
MOST_ATTEMPTS = 3  # runs that did not finish a build of one address before automation gives up


def is_temporary(error: BaseException) -> bool:
    """Whether repeating a build later may help: storage that does not answer, memory that other processes hold."""
    return isinstance(error, StorageError) or may_pass(error) or is_out_of_memory(error)


def attempt_path(key: Sequence[str], partition: str | None) -> str:
    """Where a build is on record until it succeeds, so that automation does not repeat it for ever."""
    return "/".join(["attempts", *key, f"{partition or '_'}.json"])


@contextmanager
def attempted(
    store: ArtifactStore, key: Sequence[str], partition: str | None, version: str, *, again: bool = False
) -> Iterator[None]:
    """Record a build while it runs. An attempt that failed or was killed stays on record, with the address it was for.

    The error is recorded only where it is permanent; else the attempt counts as one that was killed.

    Args:
        store: where the record lies.
        key: the asset.
        partition: its category.
        version: the address.
        again: whether this repeats an attempt of the same run.
    """
    path = attempt_path(key, partition)
    before: dict[str, Any] | None = None

    def with_attempt(record: dict[str, Any] | None) -> dict[str, Any]:
        nonlocal before
        before = record
        count = record["count"] if record and record["version"] == version else 0
        return {"version": version, "count": max(1, count + (not again)), "error": ""}

    def with_error(record: dict[str, Any] | None) -> dict[str, Any]:
        if record and record["version"] != version:  # another process builds another address by now
            return record
        return {"version": version, "count": record["count"] if record else 1, "error": message}

    update_record(store, path, with_attempt, *ATTEMPT, seen=ABSENT)
    with when_interrupted(lambda: _restore(store, path, before)):
        try:
            yield
        except Exception as error:
            if not (is_temporary(error) or isinstance(error, NoSpaceError | ChangedFileError)):
                message = f"{type(error).__name__}: {error}"
                with suppress(OSError):  # the error of the build matters more
                    update_record(store, path, with_error, *ATTEMPT)
            raise
        except BaseException:
            _restore(store, path, before)
            raise
    store.delete([path])


def _restore(store: ArtifactStore, path: str, before: dict[str, Any] | None) -> None:
    """Record what was recorded before: a build that somebody interrupts has neither failed nor been killed."""
    if before:
        write_record(store, path, before)
    else:
        store.delete([path])
