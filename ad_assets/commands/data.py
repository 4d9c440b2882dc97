"""``data check`` and ``data describe``: check and describe a dataset's folder before anything is fitted.

Both only read (generated and packed datasets are unpacked first), need no store, and download nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.view import View
from ad_assets.commands import index_history
from ad_assets.commands.common import Commands
from ad_assets.commands.data_folders import chosen_datasets, indexes, show_failed_dataset, show_problems, title
from ad_assets.commands.data_overview import HEADS, cells, record, sample_row, write_csv, write_sheet
from ad_assets.commands.output import add_json, print_json, show, show_table
from ad_assets.config.benchmark import Dataset
from ad_assets.datasets import Problem
from ad_assets.datasets.index import ImageIndex
from ad_assets.datasets.names import plain, plain_name
from ad_assets.datasets.overview import Overview

# Where what a script did not ask for goes.
_say_aside = partial(print, file=sys.stderr)


def add(commands: Commands) -> None:
    """Add the commands."""
    text = "check or describe the folders of datasets"
    group = commands.add("data", _check, text).add_subparsers(required=True, metavar="COMMAND")
    check_text = "check that datasets are complete and readable: layout, counts, broken files, what metrics need"
    check = group.add_parser("check", help=check_text, description=check_text, parents=[commands.shared])
    check.set_defaults(run=_check)
    describe_text = "a table of each category: images, defect types, sizes, modes, bytes, mask share"
    describe = group.add_parser("describe", help=describe_text, description=describe_text, parents=[commands.shared])
    describe.set_defaults(run=_describe)
    describe.add_argument(
        "--out", type=Path, metavar="DIR", help="write the table as CSV and a sheet of samples as PNG"
    )
    for command in (check, describe):
        command.add_argument("dataset", nargs="?", help="only this dataset of the benchmark file")
        command.add_argument("--category", action="append", help="only this category (may be repeated)")
        command.add_argument(
            "--reader", help="use this reader without a benchmark file; its other options are --set option=value"
        )
        command.add_argument("--root", help="the folder that --reader reads")
        add_json(command, "a row a category")
    index_history.add(commands, group)


def _check(options: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    for dataset, extractors in chosen_datasets(options):
        if not options.json:
            print(title(dataset))
        say = _say_aside if options.json else print
        for category, index, problems in indexes(dataset, options.category, say):
            overview = Overview.of(category, index) if index and category is not None else None
            views = _views(extractors, index) if index else {}
            found = [*problems, *_warnings(dataset, category, overview, views)]
            rows.append(_row(dataset, category, overview, found))
            if options.json:
                continue
            if category is None:
                show_failed_dataset(dataset.reader, problems)
            else:
                _show(rows[-1], views, found)
    checked = [row["sound"] for row in rows if row["category"] is not None]
    if options.json:
        print_json(rows)
    else:
        print(f"{sum(checked)} of {len(checked)} categories are sound" if checked else "nothing could be checked")
    return 0 if all(row["sound"] for row in rows) else 1


def _row(dataset: Dataset, category: str | None, overview: Overview | None, found: Sequence[Problem]) -> dict[str, Any]:
    """What was found of a category, or of a dataset that cannot be read (null), as JSON values."""
    fails = dataset.reader.on_problem == "fail" and any(problem.severity == "error" for problem in found)
    return {
        "dataset": dataset.name,
        "category": category,
        "sound": overview is not None and not fails,
        "train": overview and overview.train,
        "test_good": overview and overview.test_good,
        "test_anomalous": overview and overview.test_anomalous,
        "problems": [asdict(problem) for problem in found],
    }


def _warnings(
    dataset: Dataset, category: str | None, overview: Overview | None, views: Mapping[str, View]
) -> list[Problem]:
    """What metrics lack, and what extractors never look at."""
    lacks = [Problem(category or "", text, "warning") for text in overview.lacks()] if overview else []
    hidden = [Problem(f"extractor {name}", view.warning(), "warning") for name, view in views.items()]
    return [*lacks, *(each for each in hidden if each.message and dataset.own_images)]


def _show(row: Mapping[str, Any], views: Mapping[str, View], found: Sequence[Problem]) -> None:
    """Print what was found of a category."""
    counts = (
        "cannot be indexed"
        if row["train"] is None
        else f"{row['train']} train, {row['test_good']} good and {row['test_anomalous']} anomalous test images"
    )
    show(f"{'ok  ' if row['sound'] else 'FAIL'}  {plain_name(row['category'])}: {counts}")
    for name, view in views.items():
        show(plain(f"      {view.sentence(name)}"))
    show_problems(found)


def _describe(options: argparse.Namespace) -> int:
    status = 0
    rows: list[dict[str, Any]] = []
    say = _say_aside if options.json else print
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    for dataset, _ in chosen_datasets(options):
        say(title(dataset))
        overviews, sheet = [], []
        for category, index, problems in indexes(dataset, options.category, say):
            if index is None or category is None:
                status = 1
                _show_unread(dataset, category, problems, sys.stderr if options.json else sys.stdout)
                continue
            overview = Overview.of(category, index)
            overviews.append(overview)
            if options.out:
                sheet.append(sample_row(dataset.reader, overview, index))
        rows += [{"dataset": dataset.name, **record(overview)} for overview in overviews]
        if overviews and not options.json:
            table = [HEADS, *map(cells, overviews)]
            show_table([[plain(cell).replace("\n", " ") for cell in line] for line in table])
        if options.out and overviews:
            write_csv(options.out / f"{dataset.name}.csv", overviews)
            write_sheet(options.out / f"{dataset.name}.png", sheet)
            for suffix in ("csv", "png"):
                say(f"written: {options.out / dataset.name}.{suffix}")
    if options.json:
        print_json(rows)
    return status


def _show_unread(dataset: Dataset, category: str | None, problems: Sequence[Problem], stream: TextIO) -> None:
    """Print why a category, or a dataset, has no index."""
    if category is None:
        show_failed_dataset(dataset.reader, problems, stream)
    else:
        show(f"FAIL  {plain_name(category)}: cannot be indexed", stream)
        show_problems(problems, stream)


def _views(extractors: Mapping[str, Extractor], index: ImageIndex) -> dict[str, View]:
    """What each extractor sees of the images."""
    sizes = {(row["height"], row["width"]) for row in index.table.select(["height", "width"]).to_pylist()}
    return {name: View.of(extractor, sizes) for name, extractor in extractors.items()}
