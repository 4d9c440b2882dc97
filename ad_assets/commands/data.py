"""``data check`` and ``data describe``: what lies in a dataset's folder, before anything learns from it.

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
from ad_assets.datasets.names import is_image, plain_name
from ad_assets.datasets.overview import Overview
from ad_assets.datasets.readers.blind import BlindReader
from ad_assets.datasets.strays import misfits
from ad_assets.graph.progress import Progress
from ad_assets.report.text import aligned

if TYPE_CHECKING:
    from ad_assets.report.pictures import Rgb

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
    text = "what lies in the folders of datasets"
    group = commands.add("data", _check, text).add_subparsers(required=True, metavar="COMMAND")
    check_text = "whether datasets are complete and sound: layout, counts, broken files, what measuring needs"
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
            "--reader", help="no benchmark file: this reader, whose other options are --set option=value"
        )
        command.add_argument("--root", help="the folder that --reader reads")


def _check(options: argparse.Namespace) -> int:
    sound = total = 0
    failed = False
    for dataset in _datasets(options):
        print(_title(dataset))
        for category, index, problems in _indexes(dataset, options.category):
            if category is None:
                _print_failed_dataset(dataset.reader, problems)
                failed = True
                continue
            errors = index is None or (
                dataset.reader.on_problem == "fail" and any(problem.severity == "error" for problem in problems)
            )
            told = Overview.of(category, index) if index else None
            counts = (
                f"{told.train} train, {told.test_good} good and {told.test_anomalous} anomalous test images"
                if told
                else "cannot be indexed"
            )
            print(f"{'FAIL' if errors else 'ok  '}  {plain_name(category)}: {counts}")
            lacks = [Problem(category, text, "warning") for text in told.lacks()] if told else []
            _print_problems([*problems, *lacks])
            total, sound, failed = total + 1, sound + (not errors), failed or errors
    print(f"{sound} of {total} categories are sound" if total else "nothing could be checked")
    return 1 if failed else 0


def _describe(options: argparse.Namespace) -> int:
    status = 0
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    for dataset in _datasets(options):
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


def _datasets(options: argparse.Namespace) -> list[Dataset]:
    if options.reader:
        if options.dataset or options.config:
            raise ConfigError("--reader reads a folder without a benchmark file: leave out the dataset and --config")
        return [load_dataset(options.reader, options.root, options.set)]
    if options.root:
        raise ConfigError("--root goes with --reader; in a benchmark file write --set datasets.<name>.root=/path")
    benchmark = load_config(options.config, options.set)
    if options.dataset:
        check_name("dataset", options.dataset, benchmark.datasets, benchmark.source)
    return [dataset for name, dataset in benchmark.datasets.items() if options.dataset in (None, name)]


def _indexes(
    dataset: Dataset, wanted: Sequence[str] | None
) -> Iterator[tuple[str | None, ImageIndex | None, Sequence[Problem]]]:
    """Category, index without its bad files and problems; no index: it could not be made; no category: none could."""
    # Bad files are left out here, so that one pass tells everything about the others too.
    reader = dataset.reader.model_copy(update={"on_problem": "skip"})
    try:
        known = reader.categories()
    except (ValueError, OSError) as error:
        yield None, None, [Problem(dataset.name, str(error))]
        return
    unknown = [category for category in wanted or () if category not in known]
    for category in unknown:
        reason = reader.left_out().get(category)
        told = f"{category} is left out: it {reason}" if reason else f"no category {category!r}"
        raise ConfigError(f"{dataset.name}: {told}; there are: {', '.join(known)}")
    for category, reason in () if wanted else reader.left_out().items():
        print(f"left out  {category}: {reason}")
    failed = _prepared(dataset, reader, wanted or known)
    try:
        listing = ImageFiles(reader.root).listing()
        paths = reader.paths_by_category(list(listing))
    except (ValueError, OSError, ImportError) as error:
        if len(failed) < len(wanted or known):
            yield None, None, [Problem(dataset.name, str(error))]
            return
        listing, paths = Listing({}), {}
    for misfit in () if wanted else _misfits(reader, listing):
        yield misfit.path, None, [misfit]
    for category in wanted or known:
        if category in failed:
            yield category, None, [Problem(category, failed[category])]
            continue
        # Of thousands of categories each sees its own files only.
        own = {path: listing[path] for path in paths.get(category, listing)}
        index, problems = _index(dataset, reader, category, own)
        yield category, index, problems


def _prepared(dataset: Dataset, reader: Reader, categories: Sequence[str]) -> dict[str, str]:
    """Make the files of categories exist; returns those that cannot be made, with the reason."""
    failed = {}
    for category in categories:
        try:
            reader.prepare(category, Progress(_Stderr(), f"{dataset.name} [{category}]"))
        except (ValueError, OSError) as error:
            failed[category] = str(error)
    return failed


def _misfits(reader: Reader, listing: Listing) -> list[Problem]:
    """What belongs to no category and fails the check; what need not is printed."""
    problems = misfits(reader, listing)
    for problem in problems:
        if problem.severity == "warning":
            print(f"left out  {problem}")
    if passed_over := listing.clutter_beside(path for path in listing if is_image(path)):
        print(_plain(f"passed over beside images: {passed_over}"))
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
    """Where progress goes, so that what is printed can be piped."""

    def info(self, text: str) -> None:
        print(_plain(text), file=sys.stderr)


def _plain(text: str) -> str:
    """The text without control characters, which names of files may hold and a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _title(dataset: Dataset) -> str:
    return _plain(f"{dataset.name} (reader {dataset.reader.name}, {dataset.reader.root})")


def _print_problems(problems: Sequence[Problem]) -> None:
    for problem in problems[:SHOWN]:
        print(_plain(f"      {problem.severity}  {problem}"))
    if len(problems) > SHOWN:
        print(f"      ... and {len(problems) - SHOWN} more")


def _print_failed_dataset(reader: Reader, problems: Sequence[Problem]) -> None:
    for problem in problems:
        print(_plain(f"FAIL  {problem}"))
    published = reader.of if isinstance(reader, BlindReader) else reader
    if published.origin:
        print(f"      where to get it: {published.origin}")
    if published.layout:
        print("      what is expected below the root:")
        for line in published.layout.splitlines():
            print(f"        {line}")


def _cells(told: Overview) -> tuple[str, ...]:
    def counts(numbers: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in numbers.items()) or "–"

    def span(ends: tuple[int, int]) -> str:
        return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}..{ends[1]}"

    share = "–"
    if told.mask_shares:
        mean, low, high = (100 * part for part in told.mask_shares)
        share = f"{mean:.2g} ({low:.2g}..{high:.2g})"
    return (
        told.category,
        str(told.train),
        str(told.test_good),
        str(told.test_anomalous),
        counts(told.defect_types),
        counts(told.kinds),
        f"{span(told.widths)} x {span(told.heights)}",
        ", ".join(told.modes),
        f"{told.bytes / 1e6:.1f}",
        share,
        str(told.problems),
    )


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    plain = [[_plain(cell).replace("\n", " ") for cell in row] for row in rows]
    if len(plain) > 1:
        print(aligned(list(zip(*plain, strict=True)), justify=str.ljust))


def _write_csv(path: Path, overviews: Sequence[Overview]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [_record(overview) for overview in overviews]
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    print(f"written: {path}")


def _record(told: Overview) -> dict[str, Any]:
    mean, low, high = told.mask_shares or (None, None, None)

    def counts(numbers: dict[str, int]) -> str:
        text = _plain("; ".join(f"{name} {count}" for name, count in numbers.items()))
        # A cell that begins so is a formula to spreadsheets; names of files are not to be run.
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text

    return {
        "category": told.category,
        "train": told.train,
        "test_good": told.test_good,
        "test_anomalous": told.test_anomalous,
        "defect_types": counts(told.defect_types),
        "kinds": counts(told.kinds),
        "unmasked": told.unmasked,
        "width_min": told.widths[0],
        "width_max": told.widths[1],
        "height_min": told.heights[0],
        "height_max": told.heights[1],
        "modes": " ".join(told.modes),
        "bytes": told.bytes,
        "mask_share_mean": mean,
        "mask_share_min": low,
        "mask_share_max": high,
        "problems": told.problems,
    }


def _sample_row(reader: Reader, overview: Overview, index: ImageIndex) -> list[Rgb]:
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
        except (ImageError, OSError) as error:  # it changed since it was indexed
            print(_plain(f"left out of the sheet: {error}"), file=sys.stderr)
            continue
        mask = functools.reduce(operator.or_, masks) if masks else None
        tiles.append(tile(rgb, mask, label=row["label"], title=_plain(title)))
    return tiles


def _write_sheet(path: Path, rows: Sequence[Sequence[Rgb]]) -> None:
    from PIL import Image

    from ad_assets.report.samples import sample_sheet

    Image.fromarray(sample_sheet(rows)).save(path)
    print(f"written: {path}")
