"""``doctor`` and ``gc``: what would fail, and what the store no longer needs."""

from __future__ import annotations

import argparse

from ad_assets.commands.common import Commands
from ad_assets.config.load import ConfigError, load_config


def add(commands: Commands) -> None:
    """Add the commands."""
    commands.add("doctor", _doctor, "what would fail: weights, data, store, device", commands.shared)
    gc = commands.add("gc", _gc, "list, and with --delete remove, what nothing refers to", commands.shared)
    gc.add_argument("--delete", action="store_true", help="really delete; without it nothing is touched")
    gc.add_argument("--older-than", type=float, default=24.0, metavar="HOURS", help="spare younger files (default: 24)")


def _doctor(options: argparse.Namespace) -> int:
    from ad_assets.commands.doctor import examine

    findings = examine(load_config(options.config, options.set))
    for finding in findings:
        print(f"{'ok  ' if finding.healthy else 'FAIL'}  {finding.subject}: {finding.message}")
    return 0 if all(finding.healthy for finding in findings) else 1


def _gc(options: argparse.Namespace) -> int:
    from ad_assets.graph.categories import why_unseen
    from ad_assets.graph.garbage import unreferenced
    from ad_assets.graph.graph import Graph
    from ad_assets.graph.lanes import stages_of

    benchmark = load_config(options.config, options.set)
    stages = stages_of(benchmark)
    for stage in stages:
        if stage.kind == "image_index" and (reason := why_unseen(stage.partitions)):
            # What its categories would find again under other settings would look like nobody's.
            raise ConfigError(f"{stage.key[0]}: {reason}")
    files = unreferenced(Graph(stages, benchmark.store), older_than=options.older_than * 3600)
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
