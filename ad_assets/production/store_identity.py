"""A production dataset knows its store: on another one, or an empty one, its quarantine would be open.

The store has an identity marker. What id a dataset's store has is remembered in the Dagster instance and, where the
folder of the images is local and can be written, beside the images.
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
REMEDY = f"if its quarantine and champions may begin anew, run {NEW_STORE}"


class CursorValues(Protocol):
    """Texts by key, which outlast the process."""

    def get_cursor_values(self, keys: set[str]) -> Mapping[str, str]:
        """Those that are known of some keys."""

    def set_cursor_values(self, pairs: Mapping[str, str]) -> None:
        """Remember texts."""


class Instance(Protocol):
    """A Dagster instance, as far as it is asked to remember."""

    @property
    def run_storage(self) -> CursorValues:
        """Where it remembers."""


def check_store(dataset: Dataset, store: ArtifactStore, instance: Instance) -> None:
    """See that the store is the one that a production dataset knows; where it knows none yet, any is.

    Whoever trains on images, lets detectors judge or decides asks here first.

    Raises:
        ConfigError: it is another, or has no marker.
        CorruptArtifactError: its marker is damaged.
    """
    known = _of_instance(dataset, instance) or _beside(dataset).get(dataset.name)
    if known and (own := _store_id(store)) != known:
        found = f"has the id {own[:8]}" if own else "has no marker: it is empty, not mounted, or another folder"
        raise ConfigError(
            f"{dataset.name}: the store at {store.root!r} {found}; its own has the id {known[:8]}. Mount it, or "
            f"correct store.root; {REMEDY}"
        )


def enter_store(dataset: Dataset, store: ArtifactStore, instance: Instance) -> None:
    """The same before images are taken up: the first store is the one that the dataset knows from then on."""
    check_store(dataset, store, instance)
    if not _of_instance(dataset, instance):
        _store_id(store)  # a damaged marker is refused, not made anew: other datasets know it
        adopt_store(dataset, store, instance)


def adopt_store(dataset: Dataset, store: ArtifactStore, instance: Instance) -> None:
    """Make a store the one that a production dataset knows."""
    # Two runs that begin at once give one id. A damaged marker comes here with --new-store alone.
    update_record(store, MARKER, lambda before: before or {"id": uuid.uuid4().hex}, "id")
    own = _store_id(store)
    instance.run_storage.set_cursor_values({_cursor(dataset): own})
    root = dataset.reader.root
    if "://" not in root:
        with suppress(OSError):  # a share that can only be read: the instance remembers
            folder = without_tilde(root)
            if folder.is_dir():
                write_whole(folder / BESIDE, json.dumps({**_beside(dataset), dataset.name: own}).encode())


def begin_anew(dataset: Dataset, store: ArtifactStore, instance: Instance) -> None:
    """Take a store as the dataset's own, its categories without admissions as new, and lost decisions as never made."""
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
        found = json.loads((without_tilde(dataset.reader.root) / BESIDE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
