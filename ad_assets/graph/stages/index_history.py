"""Records the versions of an image index as they become its head; see `ad_assets.production.landing_history`."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from ad_assets.graph.stage import Head, read_head
from ad_assets.production.landing_history import latest_version, record_version
from ad_assets.store.layout import MARKER
from ad_assets.store.store import Artifact, ArtifactStore

Rows = Iterable[Mapping[str, Any]]
ReadRows = Callable[[Artifact], Rows]


def begin_history(store: ArtifactStore, dataset: str, category: str, read: ReadRows) -> tuple[int, str]:
    """Record the index of a store that is older than the history of its versions as the first of them.

    Returns:
        Number and address of the last version; 0 and empty where there is none.
    """
    latest = latest_version(store, dataset, category)
    if latest[0]:
        return latest
    head = read_head(store, (dataset, "image_index"), category)
    rows = _rows_at(store, read, head.version) if head else None
    if head is None or rows is None:
        return latest
    marker = store.artifact("image_index", head.version).at(MARKER)
    changed = next(file.changed for file in store.files(marker.rpartition("/")[0]) if file.path == marker)
    when = datetime.datetime.fromtimestamp(changed, datetime.UTC).isoformat(timespec="seconds")
    record_version(store, dataset, category, head.version, rows, lambda _: None, when, latest)
    return latest_version(store, dataset, category)


def record_landing(
    store: ArtifactStore,
    dataset: str,
    category: str,
    head: Head,
    rows: Rows,
    read: ReadRows,
    last_version: tuple[int, str],
) -> None:
    """Append a version of an image index that became its head, if it differs from the last version."""
    rows_of = partial(_rows_at, store, read)
    record_version(store, dataset, category, head.version, rows, rows_of, last_version=last_version)


def _rows_at(store: ArtifactStore, read: ReadRows, version: str) -> Rows | None:
    artifact = store.artifact("image_index", version)
    try:
        return read(artifact) if artifact.exists() else None
    except FileNotFoundError:
        return None
