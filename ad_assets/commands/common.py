"""Shared by all commands: common options, and a session with the loaded benchmark, its graph and its plan."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ad_assets.commands.output import show
from ad_assets.config.benchmark import Benchmark
from ad_assets.config.faults import check_name, did_you_mean
from ad_assets.config.load import ConfigError, load_config
from ad_assets.datasets.names import plain
from ad_assets.graph.progress import is_watched

if TYPE_CHECKING:
    import dagster as dg

    from ad_assets.defs.plan import Step
    from ad_assets.graph.graph import Graph
    from ad_assets.graph.stage import Stage

SHOWN = 10
Run = Callable[[argparse.Namespace], int]


class _Once(argparse.Action):
    """An option that may be given once; argparse would silently use the last value."""

    def __call__(self, _: object, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        given = namespace.__dict__.setdefault("options_given", set())
        if option and self.dest in given:
            raise argparse.ArgumentError(self, "given twice; it takes one value")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class Overrides(argparse.Action):
    """An option for ``KEY=VALUE`` texts, which may be repeated with different keys."""

    def __call__(self, _: object, namespace: argparse.Namespace, values: Any, __: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        key = values.partition("=")[0]
        for other in (text.partition("=")[0] for text in before):
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                raise argparse.ArgumentError(self, f"{key} is set twice, by {other} too")
        setattr(namespace, self.dest, [*before, values])


class Parser(argparse.ArgumentParser):
    """A parser whose single-value options refuse a second value."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register("action", None, _Once)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; a command that is given an option that it does not have names the closest that it has."""
        options, unknown = super().parse_known_args(args, namespace)
        for text in unknown:
            if text.startswith("--") and self._defaults.get("run"):
                close = did_you_mean(text.partition("=")[0], self._option_string_actions)
                self.error(f"no option {text}; {close}see {self.prog} --help")
        return options, unknown


class Commands:
    """The parser of ``ad-assets``, to which each module of this package adds its commands.

    `shared` has the options that name a benchmark file, `scope` those that select a part of its graph.
    """

    def __init__(self, description: str | None) -> None:
        self.parser = Parser(prog="ad-assets", description=description)
        self._commands = self.parser.add_subparsers(required=True, metavar="COMMAND")
        self.shared = Parser(add_help=False)
        self.shared.add_argument(
            "--config", help="benchmark file, or the name of a shipped one (default: AD_ASSETS_CONFIG, demo)"
        )
        self.shared.add_argument(
            "--set",
            action=Overrides,
            default=[],
            metavar="KEY=VALUE",
            help="override a value, such as datasets.mtd.root=/data",
        )
        self.scope = Parser(add_help=False)
        self.scope.add_argument("dataset", nargs="?", help="only this dataset of the benchmark file")
        self.scope.add_argument("--category", action="append", help="only this category (may be repeated)")
        self.scope.add_argument(
            "--select",
            help="Dagster asset selection, such as 'key:\"demo/patchcore_1/*\"', with stale assets up- and downstream",
        )

    def add(self, name: str, run: Run, text: str, *parents: Parser) -> Parser:
        """Add a command that calls `run`; `parents` are options that it shares with other commands."""
        command = self._commands.add_parser(name, help=text, description=text, parents=list(parents))
        command.set_defaults(run=run)
        return command


class TerminalLog:
    """Prints the messages of `Progress` on stderr, for commands that start no run."""

    def info(self, message: str) -> None:
        """Print a message with the time."""
        if not is_watched():
            print(plain(f"{time.strftime('%H:%M:%S')} {message}"), file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Session:
    """A loaded benchmark with its graph and the plan for the selected part.

    `unseen` has the selected datasets whose folder cannot be read, with the reason; nothing is planned for them.
    `untested` has, by dataset, the selected categories whose image index has no test images. `whole` says that no
    categories were named.
    """

    benchmark: Benchmark
    stages: list[Stage]
    graph: Graph
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    steps: list[Step]
    unseen: dict[str, str]
    untested: dict[str, list[str]]
    whole: bool

    def warn(self) -> None:
        """Print on stderr which folders cannot be read, and unless categories were named, files that are of none."""
        from ad_assets.datasets.strays import misfits

        for name, reason in self.unseen.items():
            show(plain(f"FAILED {name}: {reason}"), sys.stderr)
        for name in dict.fromkeys(stage.key[0] for stage in self.stages if stage.kind == "image_index"):
            problems = [] if name in self.unseen or not self.whole else misfits(self.benchmark.datasets[name].reader)
            for problem in problems[:SHOWN]:
                show(f"LEFT OUT {name}: {problem}", sys.stderr)
            if len(problems) > SHOWN:
                show(f"LEFT OUT {name}: {len(problems) - SHOWN} more; see `ad-assets data check`", sys.stderr)


def open_session(options: argparse.Namespace, *, force: bool = False, verify: bool = False) -> Session:
    """Load the benchmark file and plan the selected part.

    Raises:
        ConfigError: the file is invalid, or an option names something that it does not have.
    """
    benchmark = load_config(options.config, options.set)  # a fault is told before Dagster is imported
    if options.dataset:
        check_name("dataset", options.dataset, benchmark.datasets, benchmark.source)
    import dagster as dg

    from ad_assets.defs.build import build_definitions
    from ad_assets.defs.partitions import register_categories
    from ad_assets.defs.plan import plan
    from ad_assets.defs.runs import open_instance
    from ad_assets.graph.graph import Graph

    try:
        definitions, stages = build_definitions(benchmark)
    except ValueError as error:
        raise ConfigError(f"{benchmark.source}: {error}") from error
    for fault in _unknown_categories(benchmark, stages):
        show(f"FAULT {fault}", sys.stderr)
    unseen = _unseen(benchmark, stages, options.dataset)
    if unseen and len(unseen) == len([name for name in benchmark.datasets if options.dataset in (None, name)]):
        raise ConfigError("; ".join(f"{name}: {reason}" for name, reason in unseen.items()))  # nothing can be done
    selected = {dg.AssetKey(list(s.key)) for s in stages if options.dataset in (None, s.key[0])}
    if options.select:
        try:
            matched = dg.AssetSelection.from_string(options.select).resolve(definitions.resolve_asset_graph())
        except (dg.DagsterError, ValueError) as error:
            raise ConfigError(f"--select {options.select}: {error}") from error
        selected &= matched
        if not selected:
            raise ConfigError(f"--select {options.select}: no asset matches; `ad-assets status` lists them")
    categories = {category for s in stages if dg.AssetKey(list(s.key)) in selected for category in s.partitions or ()}
    for category in options.category or ():
        try:
            check_name("category", category, sorted(categories))
        except ConfigError as error:
            raise ConfigError("; ".join([str(error), *(f"{name}: {why}" for name, why in unseen.items())])) from error
    instance = open_instance(benchmark.source)
    register_categories(stages, instance)
    graph = Graph(stages, benchmark.store)
    steps = plan(
        benchmark,
        graph,
        instance,
        selected={tuple(key.path) for key in selected},
        categories=options.category,
        force=force,
        verify=verify,
    )
    steps = [step for step in steps if step.stage.key[0] not in unseen]
    indexes = [stage for stage in stages if stage.kind == "image_index" and dg.AssetKey(list(stage.key)) in selected]
    untested = {stage.key[0]: _untested(graph, stage, options.category) for stage in indexes}
    return Session(benchmark, stages, graph, definitions, instance, steps, unseen, untested, not options.category)


def _untested(graph: Graph, index: Stage, only: Sequence[str] | None) -> list[str]:
    from ad_assets.graph.stages.image_index import NO_IMAGES

    heads = {name: graph.head((index.key, name)) for name in index.partitions or () if not only or name in only}
    return [name for name, head in heads.items() if head and head.parts.get("test") == NO_IMAGES]


def _unknown_categories(benchmark: Benchmark, stages: list[Stage]) -> Iterator[str]:
    """Messages about categories in the file that a watched folder does not have; elsewhere they are errors."""
    for stage in stages:
        dataset = benchmark.datasets.get(stage.key[0])
        if dataset and dataset.production and stage.kind == "image_index" and stage.partitions:
            yield from dataset.unknown_categories(stage.partitions)


def _unseen(benchmark: Benchmark, stages: Sequence[Stage], only: str | None) -> dict[str, str]:
    """Dataset -> reason, for datasets whose folder cannot be read."""
    from ad_assets.graph.categories import why_unseen

    partitions = {stage.key[0]: stage.partitions for stage in stages if stage.kind == "image_index"}
    reasons: dict[str, str] = {}
    for name, dataset in benchmark.datasets.items():
        if only in (None, name):
            if name in partitions:
                reason = why_unseen(partitions[name])
            else:
                try:
                    dataset.reader.categories()
                    reason = "its folder could not be seen a moment ago: run again"
                except (ValueError, OSError) as error:
                    reason = str(error)
            reasons |= {name: reason} if reason else {}
    return reasons
