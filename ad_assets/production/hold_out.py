"""The hold-out of a watched category: nominal training images that are kept for judging, and that no state learns.

A line with good images only has nothing in its test folder, so nothing says how often a new state alarms on good images
that it has not learnt. A share of the training images becomes test images instead: rows with ``split: test``,
``label: 0`` and ``held_out: true``, whose files stay where they are. Each image has a place between 0 and 1 that
follows from its content alone (from its group, where it has one: near-copies of an image say nothing about it). Those
up to a place are held out, which the first images settle once and for all: a growing set keeps those that it has, and
of new images a share of about the same size joins them. An image that a person has admitted is learnt: that is what was
asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from ad_assets.config.benchmark import Production
from ad_assets.datasets.index import ImageIndex
from ad_assets.production.review_decisions import Admissions, HoldOut, read_decisions, update_admissions
from ad_assets.store.store import ArtifactStore
from ad_assets_runtime.identity import content_of

AUTOMATIC_SHARE = 0.2
# Of fewer images none can be spared, and a judgement by one or two of them says nothing.
FEWEST_IMAGES = 10
COLUMN = "held_out"


def hold_out(
    index: ImageIndex, production: Production, store: ArtifactStore, dataset: str, category: str
) -> ImageIndex:
    """The index with the held-out images as nominal test images.

    With ``held_out: auto`` a fifth is held out from the time on when a category has ten training images or more and no
    nominal test image; that is remembered with its admissions, and stays so when test images come later.

    Raises:
        DamagedRecordError: its admissions or decisions cannot be read.
    """
    rows = index.rows
    train = {row["image_id"]: row for row in rows if row["split"] == "train"}
    if len(train) < FEWEST_IMAGES or production.held_out == 0:
        return index
    decisions = read_decisions(store, dataset, category)
    free = {image: row for image, row in train.items() if decisions.get(content_of(image)) != "admit"}
    judged = any(row["split"] == "test" and row["label"] == 0 for row in rows)

    def settled(before: Admissions) -> Admissions:
        share = production.held_out
        if before.hold_out and share in ("auto", before.hold_out.share):
            return before
        if share == "auto" and judged:
            return before
        share = AUTOMATIC_SHARE if share == "auto" else float(share)
        up_to = last_place(list(free.values()), share, len(train))
        return before if up_to is None else replace(before, hold_out=HoldOut(share, up_to))

    kept = update_admissions(store, dataset, category, settled).hold_out
    chosen = {image for image, row in free.items() if kept and place_of(row) <= kept.up_to}
    if not chosen or len(train) - len(chosen) < 2:
        return index
    moved = [
        _moved(row) if row["image_id"] in chosen and row["split"] == "train" else {**row, COLUMN: False} for row in rows
    ]
    moved.sort(key=lambda row: (row["split"], row["path"]))
    return index.with_rows(moved, pa.field(COLUMN, pa.bool_()))


def place_of(row: Mapping[str, Any]) -> float:
    """The place of an image of an index between 0 and 1, which follows from its content or its group alone."""
    # Not the id itself: its order decides which images are scored left-out.
    key = row.get("group") or content_of(row["image_id"])
    return int.from_bytes(hashlib.sha256(f"held out {key}".encode()).digest()[:6]) / 2**48


def last_place(rows: Sequence[Mapping[str, Any]], share: float, images: int) -> float | None:
    """The place up to which images are held out, so that they are as near to a share of all as whole groups allow.

    None where that would leave fewer than two images to learn, as where all are of one group.
    """
    wanted = max(1, round(share * images))
    places = sorted(map(place_of, rows))
    ends = {place: number for number, place in enumerate(places, start=1) if images - number >= 2}
    return min(ends, key=lambda place: (abs(ends[place] - wanted), place)) if ends else None


def stated(rows: Collection[Mapping[str, Any]]) -> str:
    """How many images of an index are held out, in words; empty where none is."""
    held = sum(bool(row.get(COLUMN)) for row in rows)
    of = held + sum(row["split"] == "train" for row in rows)
    return f"{held} of {of} nominal images are held out for judging, by content hash" if held else ""


def _moved(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "split": "test", "label": 0, COLUMN: True}
