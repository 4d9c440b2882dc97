"""The hold-out of a watched category: nominal training images that are kept for judging, and that no state learns.

A line with good images only has nothing in its test folder, so nothing says how often a new state alarms on good images
that it has not learnt. A share of the training images becomes test images instead: rows with ``split: test``,
``label: 0`` and ``held_out: true``, whose files stay where they are. Which ones follows from their content alone (of
their group, where they have one: near-copies of an image say nothing about it), so a growing set keeps those that it
has, and a renamed file changes nothing. An image that a person has admitted is learnt: that is what was asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from ad_assets.config.benchmark import Production
from ad_assets.datasets.identity import content_of
from ad_assets.datasets.index import ImageIndex
from ad_assets.production.review_decisions import Admissions, read_decisions, update_admissions
from ad_assets.store.store import ArtifactStore

AUTOMATIC_SHARE = 0.2
# Of fewer images none can be spared, and a judgement by one or two of them says nothing.
FEWEST_IMAGES = 10
COLUMN = "held_out"


def hold_out(
    index: ImageIndex, production: Production, store: ArtifactStore, dataset: str, category: str
) -> ImageIndex:
    """The index with the held-out images as nominal test images.

    With ``held_out: auto`` the share is 0.2 from the time on when a category has ten training images or more and no
    nominal test image; that is remembered with its admissions, and stays so when test images come later.

    Raises:
        DamagedRecordError: its admissions or decisions cannot be read.
    """
    rows: list[dict[str, Any]] = index.table.to_pylist()
    share = _share(rows, production, store, dataset, category)
    train = [row for row in rows if row["split"] == "train"]
    if not share or len(train) < FEWEST_IMAGES:
        return index
    decisions = read_decisions(store, dataset, category)
    asked_for = {image for image, decision in decisions.items() if decision == "admit"}
    chosen = {row["image_id"] for row in train if is_held_out(row, share, asked_for)}
    if len({row["image_id"] for row in train} - chosen) < 2:
        return index  # one group holds all or nearly all images: what is left would be no category
    moved = [
        {**row, COLUMN: False}
        if row["image_id"] not in chosen or row["split"] != "train"
        else {**row, "split": "test", "label": 0, COLUMN: True}
        for row in rows
    ]
    moved.sort(key=lambda row: (row["split"], row["path"]))
    schema = index.table.schema.append(pa.field(COLUMN, pa.bool_()))
    return replace(index, table=pa.Table.from_pylist(moved, schema=schema)) if chosen else index


def is_held_out(row: Mapping[str, Any], share: float, asked_for: Collection[str] = ()) -> bool:
    """Whether a training image is kept for judging.

    Args:
        row: its row of the image index.
        share: of the images, from 0 to 1; those of a smaller share are among those of a larger one.
        asked_for: contents that a person has admitted, and which are therefore learnt.
    """
    content = content_of(row["image_id"])
    # Not the id itself: its order decides which images are scored left-out.
    digest = hashlib.sha256(f"held out {row.get('group') or content}".encode()).digest()
    return content not in asked_for and int.from_bytes(digest[:8]) < share * 2**64


def stated(rows: Collection[Mapping[str, Any]]) -> str:
    """How many images of an index are held out, in words; empty where none is."""
    held = sum(bool(row.get(COLUMN)) for row in rows)
    of = held + sum(row["split"] == "train" for row in rows)
    return f"{held} of {of} nominal images are held out for judging, by content hash" if held else ""


def _share(
    rows: Collection[Mapping[str, Any]], production: Production, store: ArtifactStore, dataset: str, category: str
) -> float:
    if production.held_out != "auto":
        return production.held_out
    images = sum(row["split"] == "train" for row in rows)
    judged = any(row["split"] == "test" and row["label"] == 0 for row in rows)
    share = AUTOMATIC_SHARE if images >= FEWEST_IMAGES and not judged else None

    def latched(before: Admissions) -> Admissions:
        return before if before.held_out is not None or share is None else replace(before, held_out=share)

    return update_admissions(store, dataset, category, latched).held_out or 0.0
