"""``ad-assets``: the few commands that Dagster does not have, thin over its API."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ad_assets.benchmark import Benchmark
from ad_assets.config import ConfigError, load_config

if TYPE_CHECKING:
    import dagster as dg

    from ad_assets.defs.plan import Step
    from ad_assets.defs.stages import Stage


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 something failed, 2 the call or the file is wrong."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConfigError as error:
        print(f"ad-assets: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "ad-assets: interrupted; what is finished is kept, run the command again to go on",
            file=sys.stderr,
        )
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ad-assets", description=__doc__)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--config", help="benchmark file, or the name of a shipped one (default: AD_ASSETS_CONFIG, demo)"
    )
    shared.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a value, such as datasets.mtd.root=/data",
    )
    scope = argparse.ArgumentParser(add_help=False)
    scope.add_argument("dataset", nargs="?", help="only this dataset of the benchmark file")
    scope.add_argument("--category", action="append", help="only this category (may be repeated)")
    scope.add_argument(
        "--select",
        help="Dagster asset selection, such as 'key:\"demo/patchcore_1/*\"'; with what it needs and feeds",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Any, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=list(parents))
        command.set_defaults(run=run)
        return command

    demo = add("demo", _materialize, "materialize the embedded demo and print its leaderboard")
    demo.set_defaults(config="demo", set=[], dataset=None, category=None, select=None, force=False)
    materialize = add("materialize", _materialize, "bring what is stale up to date", shared, scope)
    materialize.add_argument("--force", action="store_true", help="build again even what is up to date")
    add("status", _status, "what is stale, why, and what would run", shared, scope)
    add("doctor", _doctor, "what would fail: weights, data, store, device", shared)
    gc = add("gc", _gc, "list, and with --delete remove, what nothing refers to", shared)
    gc.add_argument("--delete", action="store_true", help="really delete; without it nothing is touched")
    gc.add_argument("--older-than", type=float, default=24.0, metavar="HOURS", help="spare younger files (default: 24)")
    return parser


@dataclass(frozen=True)
class _Session:
    """A loaded benchmark with its graph and the plan for what the call selects."""

    benchmark: Benchmark
    stages: list[Stage]
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    steps: list[Step]


def _open(options: argparse.Namespace, *, force: bool = False) -> _Session:
    import dagster as dg

    from ad_assets.defs.lanes import build_definitions
    from ad_assets.defs.plan import plan
    from ad_assets.defs.runs import open_instance

    benchmark = load_config(options.config, options.set)
    if options.dataset and options.dataset not in benchmark.datasets:
        names = ", ".join(benchmark.datasets)
        raise ConfigError(f"{benchmark.source} has no dataset {options.dataset!r}; it has: {names}")
    try:
        definitions, stages = build_definitions(benchmark)
    except ValueError as error:
        raise ConfigError(f"{benchmark.source}: {error}") from error
    selected = {dg.AssetKey(list(s.key)) for s in stages if options.dataset in (None, s.key[0])}
    if options.select:
        try:
            matched = dg.AssetSelection.from_string(options.select).resolve(definitions.resolve_asset_graph())
        except (dg.DagsterError, ValueError) as error:
            raise ConfigError(f"--select {options.select}: {error}") from error
        selected &= matched
        if not selected:
            raise ConfigError(f"--select {options.select}: no asset matches; `ad-assets status` lists them")
    known = {category for s in stages if dg.AssetKey(list(s.key)) in selected for category in s.partitions or ()}
    for category in options.category or ():
        if category not in known:
            raise ConfigError(f"no category {category!r}; there are: {', '.join(sorted(known))}")
    instance = open_instance()
    steps = plan(
        benchmark,
        stages,
        definitions,
        instance,
        benchmark.store,
        selected=selected,
        categories=options.category,
        force=force,
    )
    return _Session(benchmark, stages, definitions, instance, steps)


def _materialize(options: argparse.Namespace) -> int:
    from ad_assets.defs.comparison import comparison_text
    from ad_assets.defs.leaderboard import leaderboard_text
    from ad_assets.defs.report import report_location
    from ad_assets.defs.runs import execute

    started = time.perf_counter()
    session = _open(options, force=options.force)
    status = 0
    if session.steps:
        outcome = execute(
            session.steps,
            session.definitions,
            session.instance,
            force=options.force,
            before=lambda title: print(f"== {title}", file=sys.stderr),
        )
        for failure in outcome.failures:
            print(f"FAILED {failure}", file=sys.stderr)
        status = 1 if outcome.failures else 0
        counts = f"{outcome.built} built, {outcome.found} found in the store, {len(outcome.failures)} failed"
    else:
        counts = "everything is up to date, nothing to run"
    for name in session.benchmark.datasets:
        if options.dataset in (None, name):
            text = leaderboard_text(session.benchmark.store, session.stages, name)
            if text:
                print(f"\n{text}")
                print(f"\nreport: {report_location(session.benchmark.store, name)}")
    for name in session.benchmark.comparisons if options.dataset is None else ():
        text = comparison_text(session.benchmark.store, session.stages, name)
        if text:
            print(f"\n{text}")
    config = "" if session.benchmark.source.endswith("demo.yaml") else f"AD_ASSETS_CONFIG={session.benchmark.source} "
    print(f"UI:     {config}make dev   (then open http://127.0.0.1:3000)")
    print(f"{counts}, {time.perf_counter() - started:.1f} s")
    return status


def _status(options: argparse.Namespace) -> int:
    session = _open(options)
    if not session.steps:
        print("everything is up to date")
        return 0
    width = max(len(step.stage.name) for step in session.steps)
    places = max(len(step.partition or "") for step in session.steps)
    for step in session.steps:
        print(f"{step.action:<8}{step.stage.name:<{width}}  {step.partition or '':<{places}}  {step.reason}")
    computed = sum(step.action != "reuse" for step in session.steps)
    reused = len(session.steps) - computed
    print(f"{len(session.steps)} would run: {computed} to compute or scan, {reused} in the store already")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from ad_assets.doctor import examine

    findings = examine(load_config(options.config, options.set))
    for finding in findings:
        print(f"{'ok  ' if finding.healthy else 'FAIL'}  {finding.subject}: {finding.message}")
    return 0 if all(finding.healthy for finding in findings) else 1


def _gc(options: argparse.Namespace) -> int:
    from ad_assets.defs.garbage import unreferenced
    from ad_assets.defs.lanes import stages_of

    benchmark = load_config(options.config, options.set)
    files = unreferenced(benchmark.store, stages_of(benchmark), older_than=options.older_than * 3600)
    size = sum(file.size for file in files)
    for file in files[:20]:
        print(f"{file.size:>12,}  {file.path}")
    if len(files) > 20:
        print(f"              ... and {len(files) - 20} more")
    if options.delete:
        benchmark.store.delete(file.path for file in files)
        print(f"deleted {len(files)} files, {size / 1e6:.1f} MB")
    else:
        print(f"{len(files)} files, {size / 1e6:.1f} MB refer to nothing; `ad-assets gc --delete` removes them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
