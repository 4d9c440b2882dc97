"""``doctor``, ``gc`` and ``pack``: checks before a run, removal of unreferenced files, and fewer files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ad_assets.commands.common import Commands
from ad_assets.commands.output import add_json, print_json, show
from ad_assets.config.load import ConfigError, load_config

if TYPE_CHECKING:
    from ad_assets.commands.doctor import Finding


def add(commands: Commands) -> None:
    """Add the commands."""
    doctor = commands.add(
        "doctor",
        _doctor,
        "check weights, data, store and device before a run",
        commands.shared,
    )
    add_json(doctor, "the findings")
    gc = commands.add("gc", _gc, "list unreferenced files in the store; --delete removes them", commands.shared)
    gc.add_argument("--delete", action="store_true", help="delete them; without it nothing is changed")
    gc.add_argument("--older-than", type=float, default=24.0, metavar="HOURS", help="keep younger files (default: 24)")
    add_json(gc, "all of these files, which --delete has removed,")
    commands.add(
        "pack",
        _pack,
        "pack features that lie in files of their own, as earlier releases wrote them, and merge small shards",
        commands.shared,
    )


def _doctor(options: argparse.Namespace) -> int:
    from ad_assets.commands.doctor import examine

    findings = examine(load_config(options.config, options.set))
    if options.json:
        print_json(asdict(finding) for finding in findings)
    else:
        show(findings_text(findings))
    return 0 if all(finding.healthy for finding in findings) else 1


def findings_text(findings: Sequence[Finding]) -> str:
    """What `doctor` found, a line a check."""
    return "\n".join(f"{'ok  ' if each.healthy else 'FAIL'}  {each.subject}: {each.message}" for each in findings)


def _gc(options: argparse.Namespace) -> int:
    from ad_assets.graph.categories import why_unseen
    from ad_assets.graph.garbage import unreferenced
    from ad_assets.graph.graph import Graph
    from ad_assets.graph.lanes import stages_of

    benchmark = load_config(options.config, options.set)
    stages = stages_of(benchmark)
    for stage in stages:
        if stage.kind == "image_index" and (reason := why_unseen(stage.partitions)):
            # Artifacts of categories that cannot be seen would look unreferenced.
            raise ConfigError(f"{stage.key[0]}: {reason}")
    files = unreferenced(Graph(stages, benchmark.store), older_than=options.older_than * 3600)
    if options.delete:
        benchmark.store.delete(file.path for file in files)
    if options.json:
        print_json({"path": file.path, "bytes": file.size} for file in files)
        return 0
    size = sum(file.size for file in files)
    for file in files[:20]:
        print(f"{file.size:>12,}  {file.path}")
    if len(files) > 20:
        print(f"              ... and {len(files) - 20} more")
    if features := sum(file.path.startswith("features/") for file in files):
        print(f"{features} of them are features: `bisect` cannot fit versions that had their images once they are gone")
    if options.delete:
        print(f"deleted {len(files)} files, {size / 1e6:.1f} MB")
    else:
        print(f"{len(files)} unreferenced files, {size / 1e6:.1f} MB; `ad-assets gc --delete` removes them")
    return 0


def _pack(options: argparse.Namespace) -> int:
    from ad_assets.store.shard_packing import pack, packed_folders

    store = load_config(options.config, options.set).store
    for folder in packed_folders(store):
        before, after = pack(store, folder)
        print(f"{folder}: {before:,} files before, {after:,} now")
    return 0
