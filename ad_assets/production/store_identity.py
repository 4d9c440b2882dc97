"""Ties a production dataset to its store: with another or an empty store, its quarantine would admit every image.

The store has a marker with an id. The id that belongs to a dataset is remembered in the Dagster instance and, if the
image folder is local and writable, beside the images.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ad_assets.config.benchmark import Dataset
from ad_assets.config.faults import ConfigError
from ad_assets.production.review_decisions import NEW_STORE, accept_losses
from ad_assets.settings.home import without_tilde
from ad_assets.store.local import write_whole
from ad_assets.store.records import read_record, update_record
from ad_assets.store.store import ArtifactStore

MARKER = "store.json"
BESIDE = ".ad_assets_store.json"
REMEDY = f"if its quarantine and champions may start again from nothing, run {NEW_STORE}"


class CursorValues(Protocol):
    """A persistent key-value store of texts."""

    def get_cursor_values(self, keys: set[str]) -> Mapping[str, str]:
        """Key -> text of those keys that have one."""

    def set_cursor_values(self, pairs: Mapping[str, str]) -> None:
        """Store texts."""


class Instance(Protocol):
    """The part of a Dagster instance that is used here."""

    @property
    def run_storage(self) -> CursorValues:
        """Its key-value store."""


def check_store(dataset: Dataset, store: ArtifactStore, instance: Instance) -> None:
    """Check that the store is the one that belongs to a production dataset; any store is before the first is recorded.

    Called before anything is trained, scored or decided.

    Raises:
        ConfigError: it is another store, or has no marker.
        CorruptArtifactError: its marker is damaged.
    """
    expected = _of_instance(dataset, instance) or _beside(dataset).get(dataset.name)
    if expected and (actual := _store_id(store)) != expected:
        finding = f"has the id {actual[:8]}" if actual else "has no marker: it is empty, not mounted, or another folder"
        raise ConfigError(
            f"{dataset.name}: the store at {store.root!r} {finding}; its own has the id {expected[:8]}. Mount it, or "
            f"correct store.root; {REMEDY}"
        )


def is_named_beside_images(dataset: Dataset, store: ArtifactStore) -> bool:
    """Whether the image folder names the store as its own: then decisions there need no Dagster instance, only runs.

    Raises:
        CorruptArtifactError: the marker of the store is damaged.
    """
    expected = _beside(dataset).get(dataset.name)
    return bool(expected) and expected == _store_id(store)


def enter_store(dataset: Dataset, store: ArtifactStore, instance: Instance) -> None:
    """As `check_store`, before images are indexed; the first store is recorded as the dataset's own."""
    check_store(dataset, store, instance)
    if not _of_instance(dataset, instance):
        _store_id(store)  # a damaged marker is an error and is not replaced, since other datasets may refer to it
        adopt_store(dataset, store, instance)


def adopt_store(dataset: Dataset, store: ArtifactStore, instance: Instance) -> None:
    """Record a store as the one that belongs to a production dataset."""
    # Atomic, so that two runs get one id. A damaged marker is replaced only with --new-store.
    update_record(store, MARKER, lambda before: before or {"id": uuid.uuid4().hex}, "id")
    store_id = _store_id(store)
    instance.run_storage.set_cursor_values({_cursor(dataset): store_id})
    root = dataset.reader.root
    if "://" not in root:
        with suppress(OSError):  # a read-only share: the id in the instance suffices
            folder = without_tilde(root)
            if folder.is_dir():
                write_whole(folder / BESIDE, json.dumps({**_beside(dataset), dataset.name: store_id}).encode())


def begin_anew(dataset: Dataset, store: ArtifactStore, instance: Instance) -> None:
    """Record a store as the dataset's own and accept that admissions and decisions are lost."""
    adopt_store(dataset, store, instance)
    prefix = f"heads/{dataset.name}/image_index"
    for file in store.files(prefix):
        category = Path(file.path).stem
        accept_losses(store, dataset.name, category)


def _store_id(store: ArtifactStore) -> str:
    try:
        return str(read_record(store, MARKER, "id", remedy=f"put back a copy of it; {REMEDY}")["id"])
    except FileNotFoundError:
        return ""


def _cursor(dataset: Dataset) -> str:
    return f"ad_assets/store/{dataset.name}"


def _of_instance(dataset: Dataset, instance: Instance) -> str:
    return instance.run_storage.get_cursor_values({_cursor(dataset)}).get(_cursor(dataset), "")


def _beside(dataset: Dataset) -> dict[str, str]:
    try:
        ids = json.loads((without_tilde(dataset.reader.root) / BESIDE).read_bytes())
    except (OSError, ValueError):
        return {}
    return ids if isinstance(ids, dict) else {}
