"""``table``: a numbered table of one of the papers, computed here beside what is printed there."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ad_assets.commands.common import Commands, Overrides
from ad_assets.commands.output import add_json, print_json, terminal
from ad_assets.config.faults import check_name
from ad_assets.config.load import ConfigError, load_config, suited
from ad_assets.papers.numbered_tables import NumberedTable, Part, Systems, numbered_table, numbered_tables
from ad_assets.report.leaderboard import STANDARD
from ad_assets.report.numbered.cells import Block, Measured, joined
from ad_assets.report.numbered.curves import curve_blocks, plot
from ad_assets.report.numbered.text import FORMATS, Page, page_rows, render

if TYPE_CHECKING:
    from ad_assets.commands.table.measured import Measurements
    from ad_assets.graph.stage import Stage


def add(commands: Commands) -> None:
    """Add the command."""
    command = commands.add("table", _table, "a numbered table of a paper: its numbers beside ours")
    command.add_argument("id", nargs="?", metavar="ID", help="such as hetmm/4, patchcore/s5 or simplenet/fig5")
    command.add_argument("--list", action="store_true", help="all tables and what is computed of them; runs nothing")
    command.add_argument("--config", help="benchmark file in place of the shipped ones, with the same names in it")
    command.add_argument(
        "--set",
        action=Overrides,
        default=[],
        metavar="KEY=VALUE",
        help="override a value, such as datasets.mtd.root=/data, in each benchmark file that has it",
    )
    command.add_argument("--category", action="append", help="only this category (may be repeated)")
    command.add_argument("--bundled", action="store_true", help="the embedded backbone in place of every other")
    command.add_argument("--no-run", action="store_true", help="print from what is there")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--format", choices=FORMATS, default="text", help="default: text")
    add_json(form, "its cells, or the --list,")
    command.add_argument("--out", type=Path, metavar="DIR", help="write a PNG of each part that has curves")


def _table(options: argparse.Namespace) -> int:
    graphs = _Graphs(options)
    if options.list:
        _list(graphs, as_json=options.json)
        return 0
    if not options.id:
        raise ConfigError("table: give the id of a table, or --list")
    try:
        table = numbered_table(options.id)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    name = options.id.lower()
    if table.missing and options.json:
        raise ConfigError(f"{name} is not computed: {table.missing}")
    if table.missing:
        print(f"{name}: {table.title}\n\nnot computed: {table.missing}")
        return 0
    parts = [_Computed(part, *graphs.of(part.benchmark)) for part in table.parts]
    graphs.check(parts)
    failures = [] if options.no_run else _run(parts, options)
    page, pictures = _page(name, table, parts, options)
    page = replace(page, remarks=(*page.remarks, *(f"failed: {failure}" for failure in failures)))
    if options.json:
        print_json(page_rows(page))
    elif options.format == "text" and (console := terminal()):
        print(render(page, width=console.width))
    else:
        print(render(page, options.format))
    if options.json or options.format == "csv":
        print("\n".join(page.remarks), file=sys.stderr)
    for picture, content in pictures.items():
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / picture).write_bytes(content)
        print(f"{options.out / picture}", file=sys.stderr)
    return int(bool(failures))


@dataclass
class _Computed:
    """A part with its graph, and why it or some of its assets cannot be had."""

    part: Part
    graph: Measurements | None
    reason: str
    lacking: dict[str, str] = field(default_factory=dict)  # detector, draw or study -> why

    def targets(self) -> dict[str, Stage]:
        """Detector, draw or study -> the asset that measures it, of those that can be had."""
        if self.graph is None or self.reason:
            return {}
        return {name: stage for name, stage in self.graph.targets(self.part).items() if name not in self.lacking}


class _Graphs:
    """The graphs of the benchmark files of a call, each opened once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._opened: dict[str, tuple[Measurements | None, str]] = {}
        self._applied: set[str] = set()

    def of(self, benchmark: str) -> tuple[Measurements | None, str]:
        """The graph of a benchmark file, or why a shipped one has none here.

        Raises:
            ConfigError: the file of the call, or a value that it overrides, is wrong.
        """
        from ad_assets.commands.table.measured import Measurements

        source = self._options.config or benchmark
        if source not in self._opened:
            overrides, environ = suited(source, self._options.set)
            self._applied |= set(overrides)
            try:
                loaded = load_config(source, overrides, environ, bundled=self._options.bundled)
            except ConfigError as error:
                # One file of many that an override does not suit keeps no list from being printed.
                if self._options.config or not (self._options.list or _wrong_as_shipped(source)):
                    raise ConfigError(str(error)) from error
                head, *faults = map(str.strip, str(error).splitlines())
                self._opened[source] = None, "; ".join(faults) or head
                return self._opened[source]
            try:
                self._opened[source] = Measurements.of(loaded), ""
            except ValueError as error:  # the categories lie in a folder that is not there
                self._opened[source] = None, str(error)
        return self._opened[source]

    def check(self, parts: list[_Computed]) -> None:
        """Whether the call names only what there is.

        Raises:
            ConfigError: an override fits no benchmark file, a category no dataset, or a file no part.
        """
        for override in self._options.set:
            if override not in self._applied:
                files = ", ".join(dict.fromkeys(self._options.config or each.part.benchmark for each in parts))
                raise ConfigError(f"--set {override}: no such dataset or extractor in {files}")
        known: dict[str, None] = {}
        for each in parts:
            if each.graph and not each.reason:
                try:
                    each.graph.dataset(each.part)
                    known |= dict.fromkeys(each.graph.categories(each.part))
                except ValueError as error:
                    each.reason = str(error)
        if self._options.config and all(each.reason for each in parts):
            raise ConfigError(parts[0].reason)
        for category in self._options.category or ():
            if known:
                check_name("category", category, known)


def _wrong_as_shipped(source: str) -> bool:
    """Whether a shipped file does not load even without what a call overrides."""
    try:
        load_config(source, environ={})
    except ConfigError:
        return True
    return False


def _run(parts: list[_Computed], options: argparse.Namespace) -> list[str]:
    """Bring up to date what the parts read, benchmark by benchmark; returns what failed."""
    from ad_assets.commands.table.runs import bring_up_to_date, note_missing_data

    failed: list[str] = []
    graphs = {id(each.graph): each.graph for each in parts if each.graph}
    for graph in graphs.values():
        mine = [each for each in parts if each.graph is graph and not each.reason]
        present: dict[str, list[str]] = {}
        for each in mine:
            reason, categories = note_missing_data(graph, each.part, options.category)
            each.reason = reason
            present.setdefault(each.part.dataset, categories)
        targets = {stage.key: stage for each in mine for stage in each.targets().values()}
        if targets:
            lacking, failures = bring_up_to_date(graph, targets, present)
            failed += failures
            for each in mine:
                each.lacking |= {n: lacking[stage.key] for n, stage in each.targets().items() if stage.key in lacking}
            graph.forget()
    return failed


def _page(
    name: str, table: NumberedTable, parts: list[_Computed], options: argparse.Namespace
) -> tuple[Page, dict[str, bytes]]:
    """What is printed, and the pictures asked for by file name."""
    from ad_assets.report.numbered.blocks import blocks

    found: list[Block] = []
    pictures: dict[str, bytes] = {}
    remarks: dict[str, None] = {}
    for place, each in enumerate(parts):
        part = each.part
        measured = Measured([], (), ())
        if each.graph and part.dataset in each.graph.benchmark.datasets:
            measured = each.graph.read(part, options.category or ())
        if part.kind == "curves":
            found += curve_blocks(part, measured)
            if options.out and measured.curves:
                suffix = f"_{place + 1}" if len(parts) > 1 else ""
                pictures[f"{name.replace('/', '_')}{suffix}.png"] = plot(table.title, part, measured)
        else:
            found += blocks(part, measured)
        remarks |= dict.fromkeys(_remarks(each, measured, options))
    note = [f"note: {table.note}"] if table.note else []
    return Page(name, table.title, tuple(joined(found)), (*note, *remarks)), pictures


def _remarks(each: _Computed, measured: Measured, options: argparse.Namespace) -> Iterator[str]:
    """What to know of one part of ours."""
    part, graph = each.part, each.graph
    place = f" ({part.label})" if part.label else ""
    yield from _absences(each, place)
    if graph is None or part.dataset not in graph.benchmark.datasets:
        return
    seen = sorted({row["category"] for row in measured.rows} | {c for own in measured.curves.values() for c, _ in own})
    if not seen:
        if options.no_run:
            yield f"not computed{place}: nothing of it is in {graph.store.root}; run without --no-run"
        return
    if len(seen) < len(measured.categories):
        yield f"categories{place}: {', '.join(seen)}; {len(seen)} of {len(measured.categories)}"
    if isinstance(part, Systems) and part.protocol != STANDARD:
        own = {detector for system, detector in part.systems.items() if detector and " [" not in system}
        if own.isdisjoint(row["detector"] for row in measured.rows if row["protocol"] == part.protocol):
            yield f"protocol{place}: ours is standard, the paper's own system is {part.protocol}; expect ours lower"
    if not measured.same_data:
        yield f"data{place}: not the protocol of the paper's numbers, so there is no difference"
    if measured.without:
        yield f"draws{place}: {', '.join(measured.without)} not up to date, so without them"
    yield from _backbones(each, measured, options)
    if part.kind == "speed" or "images_per_second" in part.metrics:
        yield f"speeds: of the machine that measured them; this one is {_machine(graph)}"


def _absences(each: _Computed, place: str) -> Iterator[str]:
    """What of a part cannot be had."""
    from ad_assets.commands.table.measured import names

    if each.reason:
        yield f"not computed{place}: {each.reason}"
    if each.graph and each.part.dataset in each.graph.benchmark.datasets:
        lanes = names(each.part)  # of the draws of one all lack what it lacks
        yield from (f"not computed{place}: {name}: {each.lacking[name]}" for name in lanes if name in each.lacking)
        absent = [name for name in lanes if each.graph.target(each.part, name) is None]
        if absent:
            yield f"not in {each.graph.benchmark.source}{place}: {', '.join(absent)}"


def _backbones(each: _Computed, measured: Measured, options: argparse.Namespace) -> Iterator[str]:
    from ad_assets.commands.table.measured import extractors, names

    part, graph = each.part, each.graph
    if graph is None:
        return
    measured_names = {row["detector"] for row in measured.rows if "detector" in row} | set(measured.curves)
    stages = [
        stage
        for name in names(part)
        if (stage := graph.target(part, name)) and (name in measured_names or part.kind in ("study", "images"))
    ]
    used = {name: graph.benchmark.extractors[name] for name in extractors(stages)}
    if not used:
        return
    if options.bundled:
        source = options.config or part.benchmark
        as_written = load_config(source, *suited(source, options.set)).extractors
        replaced = {as_written[name].backbone for name in used if as_written[name].backbone != used[name].backbone}
        if replaced:
            yield (
                f"backbone: {', '.join(sorted({e.backbone for e in used.values()}))} (bundled weights) in place of "
                f"{', '.join(sorted(replaced))}, so other numbers than the paper's are to be expected"
            )
            return
    yield "backbones: " + ", ".join(f"{name} = {e.backbone} ({e.weights} weights)" for name, e in used.items())


def _machine(graph: Measurements) -> str:
    """The processor or GPU on which a benchmark would run now."""
    try:
        device = graph.benchmark.compute.torch_device(lease=False)
    except RuntimeError as error:
        return str(error)
    if device != "cpu":
        import torch

        return f"{torch.cuda.get_device_name(device)} ({device})"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor() or platform.machine()}, {os.cpu_count()} cores (cpu)"


def _list(graphs: _Graphs, *, as_json: bool) -> None:
    from ad_assets.commands.table.states import state

    tables = numbered_tables()
    width = max(map(len, tables))
    rows = []
    for name, table in tables.items():
        if table.missing:
            text = f"not computed: {table.missing}"
        else:
            text = state([(part, *graphs.of(part.benchmark)) for part in table.parts])
        rows.append({"table": name, "title": table.title, "state": text})
        if not as_json:
            print(f"{name:<{width}}  {table.title}\n{'':<{width}}    {text}")
    if as_json:
        print_json(rows)
