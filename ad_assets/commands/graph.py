"""``materialize``, ``status`` and ``demo``: show what is stale and bring it up to date."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from ad_assets.commands.common import Commands, Session, open_session
from ad_assets.commands.live_progress import live_progress
from ad_assets.commands.output import add_json, print_json, show, show_table, terminal
from ad_assets.commands.plan_text import plan_rows, plan_text, plan_values
from ad_assets.config.load import is_shipped


def add(commands: Commands) -> None:
    """Add the commands."""
    demo = commands.add("demo", _materialize, "materialize the embedded demo and print its leaderboard")
    demo.set_defaults(
        config="demo", set=[], dataset=None, category=None, select=None, force=False, verify=False, new_store=False
    )
    materialize = commands.add(
        "materialize", _materialize, "bring what is stale up to date", commands.shared, commands.scope
    )
    again = materialize.add_mutually_exclusive_group()
    again.add_argument("--force", action="store_true", help="rebuild even what is up to date")
    again.add_argument(
        "--verify", action="store_true", help="read every image and stored file again, rebuild what is damaged"
    )
    materialize.add_argument(
        "--new-store",
        action="store_true",
        help="let production datasets start again on this store: all present images are admitted",
    )
    status = commands.add(
        "status", _status, "show what is stale, why, and what would run", commands.shared, commands.scope
    )
    add_json(status, "the asset partitions that would run")


def _materialize(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    session = open_session(options, force=options.force, verify=options.verify)
    from ad_assets.defs.runs import execute, other_processes
    from ad_assets.graph.shown_results import comparison_results, dataset_results

    if options.new_store:
        _begin_anew(session, options.dataset)
    session.warn()
    status, graph = 1 if session.unseen else 0, session.graph
    if session.steps:
        for other in other_processes(session.instance):
            show(f"BESIDE {other}: it makes assets of this file now; what both begin is made twice, alike", sys.stderr)
        with live_progress(len(session.steps)):
            outcome = execute(
                session.steps,
                session.definitions,
                session.instance,
                force=options.force,
                verify=options.verify,
                before=lambda title: print(f"== {title}", file=sys.stderr),
            )
        for failure in outcome.failures:
            show(f"FAILED {failure}", sys.stderr)
        for waiting in outcome.waiting:
            show(f"WAITING {waiting}", sys.stderr)
        graph.refresh_heads()
        status = 1 if outcome.failures else status
        counts = f"{outcome.built} built, {outcome.found} found in the store, {len(outcome.failures)} failed"
    else:
        counts = "nothing to run" if session.unseen else "everything is up to date, nothing to run"
    console = terminal()
    datasets = [each for name, each in session.benchmark.datasets.items() if options.dataset in (None, name)]
    shown = [dataset_results(graph, dataset, console.width if console else None) for dataset in datasets]
    if options.dataset is None:
        shown += [comparison_results(graph, name) for name in session.benchmark.comparisons]
    for text in filter(None, shown):
        show(f"\n{text}")
    source = session.benchmark.source
    config = Path(source).stem if is_shipped(source) else source
    print(f"UI:     ad-assets dev --config {shlex.quote(config)}   (then open http://127.0.0.1:3000)")
    print(f"{counts}, {time.perf_counter() - started:.1f} s")
    return status


def _begin_anew(session: Session, only: str | None) -> None:
    from ad_assets.production.store_identity import begin_anew

    for name, dataset in session.benchmark.datasets.items():
        if dataset.production and only in (None, name):
            begin_anew(dataset, session.benchmark.store, session.instance)


def _print_kept_out(session: Session, options: argparse.Namespace) -> None:
    """Of the newest states that are not champion: which, and why."""
    from ad_assets.production.champion_history import kept_out_of

    for name, dataset in session.benchmark.datasets.items():
        if dataset.production and options.dataset in (None, name):
            kept_out = kept_out_of(session.benchmark.store, name, dataset.detectors)
            for (lane, category), newest in sorted(kept_out.items()):
                if not options.category or category in options.category:
                    show(f"NOT CHAMPION {name}/{lane} [{category}]: its newest state, {newest.reason}")


def _status(options: argparse.Namespace) -> int:
    session = open_session(options)
    session.warn()
    if options.json:
        print_json(plan_values(session.steps))
        return 1 if session.unseen else 0
    _print_kept_out(session, options)
    for name, categories in session.untested.items():
        if categories:
            print(f"no test images: {name} [{', '.join(categories)}]; image AUROC and the like are not measured there")
    if not session.steps:
        print("nothing would run" if session.unseen else "everything is up to date")
        return 1 if session.unseen else 0
    rows, ends = plan_rows(session.steps)
    show_table(rows, plan_text(session.steps), sections=ends)
    computed = sum(step.action != "reuse" for step in session.steps)
    reused = len(session.steps) - computed
    print(f"{len(session.steps)} would run: {computed} to compute or scan, {reused} in the store already")
    return 1 if session.unseen else 0
