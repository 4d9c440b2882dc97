"""``inspections``: what was inspected, and whether scores or images have drifted, without the UI."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ad_assets.commands.common import Commands
from ad_assets.commands.output import add_json, print_json, show
from ad_assets.config.load import ConfigError, load_config

if TYPE_CHECKING:
    from ad_assets.prediction.inspection_summary import InspectionSummary


def add(commands: Commands) -> None:
    """Add the command."""
    inspections = commands.add(
        "inspections", _inspections, "what was inspected, alarms, drift; 1: drift or quiet", commands.shared
    )
    inspections.add_argument("dataset", help="a production dataset of the benchmark file")
    inspections.add_argument("category", nargs="?", help="only this category")
    add_json(inspections, "a row a category")


def _inspections(options: argparse.Namespace) -> int:
    import datetime

    from ad_assets.prediction.inspection_summary import summarise
    from ad_assets.prediction.lookup import Lookup

    benchmark = load_config(options.config, options.set)
    lookup = Lookup(benchmark)
    dataset = lookup.dataset(options.dataset)
    if dataset.production is None:
        raise ConfigError(f"{dataset.name} is no production dataset: only those record what was inspected")
    categories = [lookup.category(dataset, options.category)] if options.category else lookup.categories(dataset)
    now = datetime.datetime.now(datetime.UTC)
    summaries = [summarise(benchmark.store, dataset, category) for category in categories]
    quiet = {each.category for each in summaries if each.rows and each.is_quiet(dataset.production, now)}
    if options.json:
        print_json(_values(dataset.name, each, each.category in quiet) for each in summaries)
    else:
        for each in summaries:
            _show(each, dataset.production.quiet_hours if each.category in quiet else None)
    return int(any(each.category in quiet or _drifted(each) for each in summaries))


def _drifted(summary: InspectionSummary) -> bool:
    return any(test.alarm is not None for test in summary.drift)


def _show(summary: InspectionSummary, quiet_hours: float | None) -> None:
    if not summary.rows:
        show(f"{summary.category}: nothing was inspected")
    else:
        rate = f"{summary.alarms} of the newest {len(summary.rows)} anomalous"
        last = f"last {summary.rows[-1].time:%Y-%m-%d %H:%M} UTC"
        show(f"{summary.category}: {summary.total} inspections, {rate}, {last}")
        for test in summary.drift:
            show(f"  {'DRIFT ' if test.alarm is not None else ''}{test}")
    if quiet_hours is not None:
        show(f"  QUIET for more than {quiet_hours:g} hours")


def _values(dataset: str, summary: InspectionSummary, quiet: bool) -> dict[str, Any]:
    """A category as JSON values; times are in UTC."""
    drift = [{"of": test.subject, "drift": test.alarm is not None, "said": str(test)} for test in summary.drift]
    return {
        "dataset": dataset,
        "category": summary.category,
        "inspections": summary.total,
        "newest": len(summary.rows),
        "anomalous": summary.alarms,
        "last": summary.rows[-1].time.isoformat(timespec="seconds") if summary.rows else None,
        "quiet": quiet,
        "drift": drift,
    }
