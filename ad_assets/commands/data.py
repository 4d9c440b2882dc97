"""``data check`` and ``data describe``: check and describe a dataset's folder before anything is fitted.

Both only read (generated and packed datasets are unpacked first), need no store, and download nothing.
"""

from __future__ import annotations

import argparse
import csv
import functools
import operator
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.view import View
from ad_assets.commands import index_history
from ad_assets.commands.common import Commands
from ad_assets.config.benchmark import Dataset
from ad_assets.config.faults import check_name
from ad_assets.config.load import ConfigError, load_config, load_dataset
from ad_assets.datasets import (
    DatasetError,
    FileStamp,
    ImageError,
    ImageFiles,
    Problem,
    Reader,
    build_index,
    read_image_bytes,
    read_mask_bytes,
)
from ad_assets.datasets.index import ImageIndex
from ad_assets.datasets.listing import Listing
from ad_assets.datasets.names import is_image, plain, plain_name
from ad_assets.datasets.overview import Overview
from ad_assets.datasets.readers.blind import BlindReader
from ad_assets.datasets.strays import misfits
from ad_assets.graph.progress import Progress
from ad_assets.report.text import aligned

if TYPE_CHECKING:
    from ad_assets_runtime.images import RgbImage

SHOWN = DatasetError.SHOWN
HEADS = (
    "category",
    "train",
    "test good",
    "test anomalous",
    "defect types",
    "kinds",
    "size",
    "modes",
    "MB",
    "mask share %",
    "problems",
)


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
    index_history.add(commands, group)


def _check(options: argparse.Namespace) -> int:
    sound = total = 0
    failed = False
    for dataset, extractors in _datasets(options):
        print(_title(dataset))
        for category, index, problems in _indexes(dataset, options.category):
            if category is None:
                _print_failed_dataset(dataset.reader, problems)
                failed = True
                continue
            errors = index is None or (
                dataset.reader.on_problem == "fail" and any(problem.severity == "error" for problem in problems)
            )
            overview = Overview.of(category, index) if index else None
            counts = (
                f"{overview.train} train, {overview.test_good} good and {overview.test_anomalous} anomalous test images"
                if overview
                else "cannot be indexed"
            )
            print(f"{'FAIL' if errors else 'ok  '}  {plain_name(category)}: {counts}")
            lacks = [Problem(category, text, "warning") for text in overview.lacks()] if overview else []
            views = _views(extractors, index) if index else {}
            for name, view in views.items():
                print(plain(f"      {view.sentence(name)}"))
            hidden = [Problem(f"extractor {name}", view.warning(), "warning") for name, view in views.items()]
            hidden = [each for each in hidden if each.message and dataset.own_images]
            _print_problems([*problems, *lacks, *hidden])
            total, sound, failed = total + 1, sound + (not errors), failed or errors
    print(f"{sound} of {total} categories are sound" if total else "nothing could be checked")
    return 1 if failed else 0


def _describe(options: argparse.Namespace) -> int:
    status = 0
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    for dataset, _ in _datasets(options):
        print(_title(dataset))
        overviews, sheet = [], []
        for category, index, problems in _indexes(dataset, options.category):
            if category is None:
                _print_failed_dataset(dataset.reader, problems)
            elif index is None:
                print(f"FAIL  {plain_name(category)}: cannot be indexed")
                _print_problems(problems)
            if index is None or category is None:
                status = 1
                continue
            overview = Overview.of(category, index)
            overviews.append(overview)
            if options.out:
                sheet.append(_sample_row(dataset.reader, overview, index))
        _print_table([HEADS, *(_cells(overview) for overview in overviews)])
        if options.out and overviews:
            _write_csv(options.out / f"{dataset.name}.csv", overviews)
            _write_sheet(options.out / f"{dataset.name}.png", sheet)
    return status


def _views(extractors: Mapping[str, Extractor], index: ImageIndex) -> dict[str, View]:
    """What each extractor sees of the images."""
    sizes = {(row["height"], row["width"]) for row in index.table.select(["height", "width"]).to_pylist()}
    return {name: View.of(extractor, sizes) for name, extractor in extractors.items()}


def _datasets(options: argparse.Namespace) -> list[tuple[Dataset, dict[str, Extractor]]]:
    """The datasets that are asked for, with the extractors that look at their images."""
    if options.reader:
        if options.dataset or options.config:
            raise ConfigError("--reader reads a folder without a benchmark file: leave out the dataset and --config")
        return [(load_dataset(options.reader, options.root, options.set), {})]
    if options.root:
        raise ConfigError("--root goes with --reader; in a benchmark file write --set datasets.<name>.root=/path")
    benchmark = load_config(options.config, options.set)
    if options.dataset:
        check_name("dataset", options.dataset, benchmark.datasets, benchmark.source)
    chosen = [dataset for name, dataset in benchmark.datasets.items() if options.dataset in (None, name)]
    return [(dataset, {name: benchmark.extractors[name] for name in dataset.extractors}) for dataset in chosen]


def _indexes(
    dataset: Dataset, wanted: Sequence[str] | None
) -> Iterator[tuple[str | None, ImageIndex | None, Sequence[Problem]]]:
    """Category, index without its bad files, problems. Index None: it cannot be made; category None: none can."""
    # Bad files are skipped here, so that one pass reports everything about the others too.
    reader = dataset.reader.model_copy(update={"on_problem": "skip"})
    try:
        categories = reader.categories()
    except (ValueError, OSError) as error:
        yield None, None, [Problem(dataset.name, str(error))]
        return
    unknown = [category for category in wanted or () if category not in categories]
    for category in unknown:
        reason = reader.left_out().get(category)
        if reason:
            there = ", ".join(categories)
            raise ConfigError(f"{dataset.name}: {category} is left out: it {reason}; there are: {there}")
        check_name("category", category, categories, f"dataset {dataset.name}")
    for category, reason in () if wanted else reader.left_out().items():
        print(f"left out  {category}: {reason}")
    failed = _prepared(dataset, reader, wanted or categories)
    try:
        listing = ImageFiles(reader.root).listing()
        paths = reader.paths_by_category(list(listing))
    except (ValueError, OSError, ImportError) as error:
        if len(failed) < len(wanted or categories):
            yield None, None, [Problem(dataset.name, str(error))]
            return
        listing, paths = Listing({}), {}
    for misfit in () if wanted else _misfits(reader, listing):
        yield misfit.path, None, [misfit]
    for category in wanted or categories:
        if category in failed:
            yield category, None, [Problem(category, failed[category])]
            continue
        # Each category gets its own files only, which matters with thousands of categories.
        category_listing = {path: listing[path] for path in paths.get(category, listing)}
        index, problems = _index(dataset, reader, category, category_listing)
        yield category, index, problems


def _prepared(dataset: Dataset, reader: Reader, categories: Sequence[str]) -> dict[str, str]:
    """Prepare the files of categories; returns category -> reason for those that fail."""
    failed = {}
    for category in categories:
        try:
            reader.prepare(category, Progress(_Stderr(), f"{dataset.name} [{category}]"))
        except (ValueError, OSError) as error:
            failed[category] = str(error)
    return failed


def _misfits(reader: Reader, listing: Listing) -> list[Problem]:
    """Print warnings about what belongs to no category; returns the errors, which fail the check."""
    problems = misfits(reader, listing)
    for problem in problems:
        if problem.severity == "warning":
            print(f"left out  {problem}")
    if passed_over := listing.clutter_beside(path for path in listing if is_image(path)):
        print(plain(f"passed over beside images: {passed_over}"))
    return [problem for problem in problems if problem.severity == "error"]


def _index(
    dataset: Dataset, reader: Reader, category: str, listing: Mapping[str, FileStamp]
) -> tuple[ImageIndex | None, Sequence[Problem]]:
    progress = Progress(_Stderr(), f"{dataset.name} [{category}]")
    try:
        index = build_index(reader, category, listing=listing, report=progress)
    except DatasetError as error:
        return None, error.problems
    except (ValueError, OSError) as error:
        return None, [Problem(category, str(error))]
    return index, index.problems


class _Stderr:
    """Prints progress on stderr, so that standard output can be piped."""

    def info(self, text: str) -> None:
        print(plain(text), file=sys.stderr)


def _title(dataset: Dataset) -> str:
    return plain(f"{dataset.name} (reader {dataset.reader.name}, {dataset.reader.root})")


def _print_problems(problems: Sequence[Problem]) -> None:
    for problem in problems[:SHOWN]:
        print(plain(f"      {problem.severity}  {problem}"))
    if len(problems) > SHOWN:
        print(f"      ... and {len(problems) - SHOWN} more")


def _print_failed_dataset(reader: Reader, problems: Sequence[Problem]) -> None:
    for problem in problems:
        print(plain(f"FAIL  {problem}"))
    published = reader.of if isinstance(reader, BlindReader) else reader
    if published.origin:
        print(f"      where to get it: {published.origin}")
    if published.layout:
        print("      what is expected below the root:")
        for line in published.layout.splitlines():
            print(f"        {line}")


def _cells(overview: Overview) -> tuple[str, ...]:
    def counts(numbers: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in numbers.items()) or "–"

    def span(ends: tuple[int, int]) -> str:
        return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}..{ends[1]}"

    share = "–"
    if overview.mask_shares:
        mean, low, high = (100 * part for part in overview.mask_shares)
        share = f"{mean:.2g} ({low:.2g}..{high:.2g})"
    return (
        overview.category,
        str(overview.train),
        str(overview.test_good),
        str(overview.test_anomalous),
        counts(overview.defect_types),
        counts(overview.kinds),
        f"{span(overview.widths)} x {span(overview.heights)}",
        ", ".join(overview.modes),
        f"{overview.bytes / 1e6:.1f}",
        share,
        str(overview.problems),
    )


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    if len(rows) > 1:
        cells = [[plain(cell).replace("\n", " ") for cell in row] for row in rows]
        print(aligned(list(zip(*cells, strict=True)), justify=str.ljust))


def _write_csv(path: Path, overviews: Sequence[Overview]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [_record(overview) for overview in overviews]
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    print(f"written: {path}")


def _record(overview: Overview) -> dict[str, Any]:
    mean, low, high = overview.mask_shares or (None, None, None)

    def counts(numbers: dict[str, int]) -> str:
        text = plain("; ".join(f"{name} {count}" for name, count in numbers.items()))
        # Spreadsheets would run such a cell as a formula.
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text

    return {
        "category": overview.category,
        "train": overview.train,
        "test_good": overview.test_good,
        "test_anomalous": overview.test_anomalous,
        "defect_types": counts(overview.defect_types),
        "kinds": counts(overview.kinds),
        "unmasked": overview.unmasked,
        "width_min": overview.widths[0],
        "width_max": overview.widths[1],
        "height_min": overview.heights[0],
        "height_max": overview.heights[1],
        "modes": " ".join(overview.modes),
        "bytes": overview.bytes,
        "mask_share_mean": mean,
        "mask_share_min": low,
        "mask_share_max": high,
        "problems": overview.problems,
    }


def _sample_row(reader: Reader, overview: Overview, index: ImageIndex) -> list[RgbImage]:
    from ad_assets.report.pictures import tile, title_tile
    from ad_assets.report.samples import choose_samples

    files = ImageFiles(reader.root)
    counts = [f"{overview.train} train", f"{overview.test_good} test good", f"{overview.test_anomalous} anomalous"]
    tiles = [title_tile([overview.category, *counts])]
    for row in choose_samples(index.table.to_pylist()):
        name = Path(row["path"]).stem
        title = f"{row['defect_type'] if row['label'] else row['split']} {name}"
        try:
            rgb = reader.decoding.of(row["image_id"]).rgb(read_image_bytes(files, row), row["path"])
            read = zip(read_mask_bytes(files, row), row["mask_paths"], strict=True)
            masks = [reader.decoding.mask(data, path).anomalous for data, path in read]
        except (ImageError, OSError) as error:  # changed since it was indexed
            print(plain(f"left out of the sheet: {error}"), file=sys.stderr)
            continue
        mask = functools.reduce(operator.or_, masks) if masks else None
        tiles.append(tile(rgb, mask, label=row["label"], title=plain(title)))
    return tiles


def _write_sheet(path: Path, rows: Sequence[Sequence[RgbImage]]) -> None:
    from PIL import Image

    from ad_assets.report.samples import sample_sheet

    Image.fromarray(sample_sheet(rows)).save(path)
    print(f"written: {path}")
