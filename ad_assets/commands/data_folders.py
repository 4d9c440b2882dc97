"""The folders that ``data`` is asked about: their datasets, an index of each category, and what is wrong with them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

from ad_assets.backbones.extractor import Extractor
from ad_assets.commands.common import TerminalLog
from ad_assets.commands.output import show
from ad_assets.config.benchmark import Dataset
from ad_assets.config.faults import check_name
from ad_assets.config.load import ConfigError, load_config, load_dataset
from ad_assets.datasets import DatasetError, FileStamp, ImageFiles, Problem, Reader, build_index
from ad_assets.datasets.index import ImageIndex
from ad_assets.datasets.listing import Listing
from ad_assets.datasets.names import is_image, plain
from ad_assets.datasets.readers.blind import BlindReader
from ad_assets.datasets.strays import misfits
from ad_assets.graph.progress import Progress

SHOWN = DatasetError.SHOWN
Say = Callable[[str], None]


def chosen_datasets(options: argparse.Namespace) -> list[tuple[Dataset, dict[str, Extractor]]]:
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


def indexes(
    dataset: Dataset, wanted: Sequence[str] | None, say: Say = print
) -> Iterator[tuple[str | None, ImageIndex | None, Sequence[Problem]]]:
    """Index the categories of a dataset, or of those that are wanted.

    Args:
        dataset: the dataset.
        wanted: names of categories; None: all.
        say: is told what belongs to no category.

    Yields:
        Category, index without its bad files, problems. Index None: it cannot be made; category None: none can.

    Raises:
        ConfigError: a category that is wanted does not exist.
    """
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
        say(f"left out  {category}: {reason}")
    failed = _prepared(dataset, reader, wanted or categories)
    try:
        listing = ImageFiles(reader.root).listing()
        paths = reader.paths_by_category(list(listing))
    except (ValueError, OSError, ImportError) as error:
        if len(failed) < len(wanted or categories):
            yield None, None, [Problem(dataset.name, str(error))]
            return
        listing, paths = Listing({}), {}
    for misfit in () if wanted else _misfits(reader, listing, say):
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
            reader.prepare(category, Progress(TerminalLog(), f"{dataset.name} [{category}]"))
        except (ValueError, OSError) as error:
            failed[category] = str(error)
    return failed


def _misfits(reader: Reader, listing: Listing, say: Say) -> list[Problem]:
    """Tell warnings about what belongs to no category; returns the errors, which fail the check."""
    problems = misfits(reader, listing)
    for problem in problems:
        if problem.severity == "warning":
            say(f"left out  {problem}")
    if passed_over := listing.clutter_beside(path for path in listing if is_image(path)):
        say(plain(f"passed over beside images: {passed_over}"))
    return [problem for problem in problems if problem.severity == "error"]


def _index(
    dataset: Dataset, reader: Reader, category: str, listing: Mapping[str, FileStamp]
) -> tuple[ImageIndex | None, Sequence[Problem]]:
    progress = Progress(TerminalLog(), f"{dataset.name} [{category}]")
    try:
        index = build_index(reader, category, listing=listing, report=progress)
    except DatasetError as error:
        return None, error.problems
    except (ValueError, OSError) as error:
        return None, [Problem(category, str(error))]
    return index, index.problems


def title(dataset: Dataset) -> str:
    """The line above what is said of a dataset."""
    return plain(f"{dataset.name} (reader {dataset.reader.name}, {dataset.reader.root})")


def show_problems(problems: Sequence[Problem], stream: TextIO | None = None) -> None:
    """Print the first problems of a category, and how many more there are."""
    for problem in problems[:SHOWN]:
        show(plain(f"      {problem.severity}  {problem}"), stream)
    if len(problems) > SHOWN:
        show(f"      ... and {len(problems) - SHOWN} more", stream)


def show_failed_dataset(reader: Reader, problems: Sequence[Problem], stream: TextIO | None = None) -> None:
    """Print why a dataset cannot be indexed, and what is expected of it."""
    for problem in problems:
        show(plain(f"FAIL  {problem}"), stream)
    published = reader.of if isinstance(reader, BlindReader) else reader
    if published.origin:
        show(f"      where to get it: {published.origin}", stream)
    if published.layout:
        show("      what is expected below the root:", stream)
        for line in published.layout.splitlines():
            show(f"        {line}", stream)
