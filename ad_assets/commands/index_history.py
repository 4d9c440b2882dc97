"""``data history`` and ``data diff``: the versions of a category's image index, and how two of them differ."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ad_assets.commands.common import Commands
from ad_assets.commands.output import add_json, print_json, show_table
from ad_assets.config.faults import check_name
from ad_assets.config.load import ConfigError, load_config
from ad_assets.datasets.names import plain, plain_name

if TYPE_CHECKING:
    from ad_assets.production.landing_history import Changes, IndexedImage, Landing

NAMES = 3


def add(commands: Commands, group: Any) -> None:
    """Add the commands to the group ``data``."""
    text = "list the versions of a category's images: when, how many came and went, the first names"
    history = group.add_parser("history", help=text, description=text, parents=[commands.shared])
    history.set_defaults(run=_history)
    text = "which images two versions of a category do not share, and which have another split or label"
    diff = group.add_parser("diff", help=text, description=text, parents=[commands.shared])
    diff.set_defaults(run=_diff)
    for command in (history, diff):
        command.add_argument("dataset", help="a dataset of the benchmark file")
        command.add_argument("category", help="one of its categories")
    add_json(history, "a row a version")
    add_json(diff, "a row an image")
    diff.add_argument("earlier", type=int, metavar="A", help="number of a version, from `data history`")
    diff.add_argument("later", type=int, metavar="B", help="number of another")


def _history(options: argparse.Namespace) -> int:
    from ad_assets.production.landing_history import changes_of

    landings = _landings(options)
    if options.json:
        print_json(_version(number, each, changes_of(each)) for number, each in enumerate(landings, start=1))
        return 0
    rows = [("version", "when", "training images", "test images", "first names")]
    for number, landing in enumerate(landings, start=1):
        changes = changes_of(landing)
        counts = (_count(changes, "train"), _count(changes, "test"))
        rows.append((str(number), landing.when, *counts, _names(changes)))
    show_table(rows)
    return 0


def _version(number: int, landing: Landing, changes: Changes) -> dict[str, Any]:
    """A version as JSON values; `data diff` has the images that are counted here."""
    counts = {"added": len(changes.added), "removed": len(changes.removed), "changed": len(changes.changed)}
    return {"version": number, "when": landing.when, "index": landing.index, **counts}


def _diff(options: argparse.Namespace) -> int:
    from ad_assets.production.landing_history import changes_between, images_of

    landings = _landings(options)
    for number in (options.earlier, options.later):
        if not 1 <= number <= len(landings):
            raise ConfigError(f"version {number}: {options.dataset} [{options.category}] has 1 to {len(landings)}")
    changes = changes_between(images_of(landings[: options.earlier]), images_of(landings[: options.later]))
    if options.json:
        print_json(_rows(changes))
        return 0
    for image in changes.added:
        print(f"+  {_line(image)}")
    for image in changes.removed:
        print(f"-  {_line(image)}")
    for before, after in changes.changed:
        renamed = f"  (was {plain_name(before.path)})" if before.path != after.path else ""
        role = f"{before.role} -> {after.role}" if before.role != after.role else after.role
        print(plain(f"~  {after.image_id[:12]}  {plain_name(after.path)}  {role}{renamed}"))
    counted = (len(changes.added), len(changes.removed), len(changes.changed))
    print("{} added, {} removed, {} changed".format(*counted))
    return 0


def _rows(changes: Changes) -> list[dict[str, Any]]:
    """Changed images as JSON values; before and after are null where there was none, or is none."""

    def place(image: IndexedImage) -> dict[str, str]:
        return {"path": image.path, "role": image.role}

    def row(change: str, image_id: str, before: dict[str, str] | None, after: dict[str, str] | None) -> dict[str, Any]:
        return {"change": change, "image_id": image_id, "before": before, "after": after}

    return [
        *(row("added", image.image_id, None, place(image)) for image in changes.added),
        *(row("removed", image.image_id, place(image), None) for image in changes.removed),
        *(row("changed", after.image_id, place(before), place(after)) for before, after in changes.changed),
    ]


def _landings(options: argparse.Namespace) -> Sequence[Landing]:
    from ad_assets.production.landing_history import read_landings

    benchmark = load_config(options.config, options.set)
    check_name("dataset", options.dataset, benchmark.datasets, benchmark.source)
    landings = read_landings(benchmark.store, options.dataset, options.category)
    if not landings:
        raise ConfigError(
            f"{options.dataset} [{options.category}] has no recorded version in {benchmark.store.root}: the first is "
            f"recorded with its image index, by `ad-assets materialize {options.dataset}`"
        )
    return landings


def _count(changes: Changes, split: str) -> str:
    """Rows that came to a split and left it, as ``+3 -1``; of other changes as ``~2``."""
    counts: Counter[str] = Counter()
    counts["+"] = sum(image.split == split for image in changes.added)
    counts["-"] = sum(image.split == split for image in changes.removed)
    for before, after in changes.changed:
        if before.split == after.split == split:
            counts["~"] += 1
        else:
            counts["+"] += after.split == split
            counts["-"] += before.split == split
    return " ".join(f"{sign}{number}" for sign, number in counts.items() if number)


def _names(changes: Changes) -> str:
    images = [*changes.added, *changes.removed, *(after for _, after in changes.changed)]
    names = ", ".join(plain_name(image.name) for image in images[:NAMES])
    return plain(f"{names}, ..." if len(images) > NAMES else names)


def _line(image: IndexedImage) -> str:
    return plain(f"{image.image_id[:12]}  {plain_name(image.path)}  {image.role}")
