"""``inspections``: what was inspected, and whether scores or images have drifted, without the UI."""

from __future__ import annotations

import argparse

from ad_assets.commands.common import Commands
from ad_assets.config.load import ConfigError, load_config


def add(commands: Commands) -> None:
    """Add the command."""
    inspections = commands.add(
        "inspections", _inspections, "what was inspected, alarms, drift; 1: drift or quiet", commands.shared
    )
    inspections.add_argument("dataset", help="a production dataset of the benchmark file")
    inspections.add_argument("category", nargs="?", help="only this category")


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
    status = 0
    for category in categories:
        summary = summarise(benchmark.store, dataset, category)
        if not summary.rows:
            print(f"{category}: nothing was inspected")
            continue
        rate = f"{summary.alarms} of the newest {len(summary.rows)} anomalous"
        print(f"{category}: {summary.total} inspections, {rate}, last {summary.rows[-1].time:%Y-%m-%d %H:%M} UTC")
        for test in summary.drift:
            print(f"  {'DRIFT ' if test.alarm is not None else ''}{test}")
        quiet = summary.is_quiet(dataset.production, datetime.datetime.now(datetime.UTC))
        if quiet:
            print(f"  QUIET for more than {dataset.production.quiet_hours:g} hours")
        if quiet or any(test.alarm is not None for test in summary.drift):
            status = 1
    return status
