"""``history``, ``promote``, ``rollback`` and ``quarantine``: decisions of people about production datasets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ad_assets.commands.common import Commands, Parser
from ad_assets.commands.output import add_json, print_json, show
from ad_assets.config.benchmark import Benchmark
from ad_assets.config.faults import check_name, did_you_mean
from ad_assets.config.load import ConfigError, load_config

if TYPE_CHECKING:
    from ad_assets.production.champion_history import ChampionCandidate, History
    from ad_assets.production.feedback_ledger import Decision


def add(commands: Commands) -> None:
    """Add the commands."""
    dataset_argument = Parser(add_help=False)
    dataset_argument.add_argument("dataset", help="a production dataset of the benchmark file")
    lane_arguments = Parser(add_help=False)
    lane_arguments.add_argument("detector", help="one of its lanes")
    lane_arguments.add_argument("category", help="one of its categories")
    shared = commands.shared
    history = commands.add(
        "history", _history, "list the champions, since when and why", shared, dataset_argument, lane_arguments
    )
    add_json(history, "them, and last the newest state where the gates kept it out,")
    promote = commands.add(
        "promote",
        _promote,
        "make the newest state champion, regardless of gates",
        shared,
        dataset_argument,
        lane_arguments,
    )
    promote.add_argument("--reason", required=True, help="the reason, recorded in the history")
    rollback = commands.add(
        "rollback", _rollback, "restore an earlier champion", shared, dataset_argument, lane_arguments
    )
    rollback.add_argument("--to", metavar="STATE", help="beginning of its address (default: the previous champion)")
    rollback.add_argument("--reason", required=True, help="the reason, recorded in the history")
    quarantine = commands.add(
        "quarantine",
        _quarantine,
        "list held images, admit or reject them",
        shared,
        dataset_argument,
    )
    quarantine.add_argument("category", nargs="?", help="only this category")
    decision = quarantine.add_mutually_exclusive_group()
    add_json(decision, "the held images")
    decision.add_argument(
        "--admit",
        nargs="+",
        action="extend",
        metavar="IMAGE",
        help="train on these, even if rejected before; all: every image without a decision",
    )
    decision.add_argument(
        "--reject",
        nargs="+",
        action="extend",
        metavar="IMAGE",
        help="never train on these; any training image may be named",
    )


def _history(options: argparse.Namespace) -> int:
    history = _read(load_line(options), options)
    if options.json:
        print_json(_entries(history))
        return 0
    for entry in history.entries:
        numbers = ", ".join(f"{metric} {entry.candidate.numbers[metric]:.4f}" for metric in _shown(entry.candidate))
        text = f"{entry.action}: {entry.reason}{f'  ({numbers})' if numbers else ''}"
        print(f"{entry.when}  {entry.candidate.state}  {text}")
    if not history.entries:
        print("no state was promoted yet")
    if history.kept_out:
        show(f"not champion: {history.kept_out.state}, the newest state: {history.kept_out.reason}")
    return 0


def _entries(history: History) -> Iterator[dict[str, Any]]:
    """The changes of champion as JSON values; what the gates kept out has neither time nor numbers."""
    for entry in history.entries:
        numbers = dict(entry.candidate.numbers)
        yield {
            "when": entry.when,
            "action": entry.action,
            "reason": entry.reason,
            "state": entry.candidate.state,
            "champion": entry.candidate.state == history.entries[-1].candidate.state,
            "numbers": numbers,
        }
    if history.kept_out:
        kept = history.kept_out
        yield {
            "when": None,
            "action": "kept out",
            "reason": kept.reason,
            "state": kept.state,
            "champion": False,
            "numbers": {},
        }


def _promote(options: argparse.Namespace) -> int:
    from ad_assets.graph.stages.champion import read_candidate
    from ad_assets.production.champion_history import BY_HAND

    benchmark = load_line(options)
    history = _read(benchmark, options)
    head = benchmark.store.read_head((options.dataset, options.detector, "champion"), options.category)
    if head is None:
        raise ConfigError(
            f"{options.dataset}/{options.detector} [{options.category}] has no state to promote: materialize it first"
        )
    newest = read_candidate(benchmark.store.artifact("champion", head["version"]))
    if history.champion and history.champion.state == newest.state:
        print(f"{newest.state} is champion already")
        return 0
    _check_bundle(benchmark, options, newest)
    return _make_champion(benchmark, options, history, history.with_champion(newest, BY_HAND, options.reason))


def _rollback(options: argparse.Namespace) -> int:
    from ad_assets.production.champion_history import ROLLED_BACK

    benchmark = load_line(options)
    history = _read(benchmark, options)
    champion = history.champion
    earlier = [entry.candidate for entry in history.entries if champion and entry.candidate.state != champion.state]
    if options.to:
        earlier = [candidate for candidate in earlier if candidate.state.startswith(options.to)]
    if not earlier:
        wanted = f" whose address begins with {options.to}" if options.to else ""
        raise ConfigError(f"there is no earlier champion{wanted}: see ad-assets history")
    back = earlier[-1]
    kind = _kind(benchmark, options)
    if not benchmark.store.artifact(kind, back.state).exists():
        raise ConfigError(f"{back.state} is no longer in the store: it cannot be restored")
    _check_bundle(benchmark, options, back)
    return _make_champion(benchmark, options, history, history.with_champion(back, ROLLED_BACK, options.reason))


def _check_bundle(benchmark: Benchmark, options: argparse.Namespace, candidate: ChampionCandidate) -> None:
    """Refuse a state whose bundle, which the line would get, is not there or scores otherwise.

    Raises:
        ConfigError: saying why.
    """
    from ad_assets.graph.stages.bundle import KIND, read_parity

    if benchmark.datasets[options.dataset].detectors[options.detector].export is None:
        return
    place = f"datasets.{options.dataset}.detectors.{options.detector}.export"
    bundle = benchmark.store.artifact(KIND, candidate.bundle)
    if not candidate.bundle or not bundle.exists():
        raise ConfigError(
            f"{candidate.state} has no bundle, so the line could not follow: choose another state, or remove {place}"
        )
    if fault := read_parity(bundle).fault:
        raise ConfigError(f"{candidate.state} may not be promoted: its bundle differs from the graph: {fault}")


def _make_champion(benchmark: Benchmark, options: argparse.Namespace, seen: History, history: History) -> int:
    """Write a history with a new champion, and print its address.

    Raises:
        ConfigError: the stored history is no longer `seen`; a second rollback at the same time would undo the first.
    """
    from ad_assets.graph.stages.champion_bundle import point_to_bundle
    from ad_assets.production.champion_history import update_history

    def change(now: History) -> History:
        if now != seen:
            latest = f"{now.entries[-1].action}: {now.entries[-1].reason}" if now.entries else "its history is gone"
            raise ConfigError(f"the champion changed meanwhile ({latest}): see ad-assets history, and decide again")
        return history

    place = (options.dataset, options.detector, options.category)
    update_history(benchmark.store, *place, change)
    point_to_bundle(benchmark.store, *place)
    if history.champion:
        print(f"champion: {history.champion.state}")
    return 0


def _quarantine(options: argparse.Namespace) -> int:
    benchmark = load_line(options)
    categories = _categories(benchmark, options)
    if options.admit or options.reject:
        return _decide(benchmark, options)
    held = [
        row
        for each in ([options.category] if options.category else categories)
        for row in _held(benchmark, options.dataset, each)
    ]
    if options.json:
        print_json(held)
    else:
        for row in held:
            print(f"{row['category']}  {row['image'][:12]}  {row['path']}  since {row['since']}")
            for reason in row["reasons"]:
                print(f"    {reason}")
    print(f"{len(held)} images wait for a decision", file=sys.stderr)
    return 0


def _held(benchmark: Benchmark, dataset: str, category: str) -> Iterator[dict[str, Any]]:
    """The images of a category that wait for a decision, as JSON values."""
    from ad_assets.production.review_decisions import read_admissions, read_decisions

    decisions = read_decisions(benchmark.store, dataset, category)
    for image, entry in read_admissions(benchmark.store, dataset, category).held.items():
        if image not in decisions:
            place = {"category": category, "image": image, "path": entry.path}
            yield {**place, "since": entry.since, "reasons": list(entry.reasons)}


def _decide(benchmark: Benchmark, options: argparse.Namespace) -> int:
    from ad_assets.prediction.image_review import review

    dataset, category = options.dataset, options.category
    if category is None:
        raise ConfigError("name the category of the images to decide on")
    decision: Decision = "admit" if options.admit else "reject"
    reviewed = review(benchmark, dataset, category, options.admit or options.reject, decision)
    for line in reviewed.lines(decision):
        print(line)
    if reviewed.standing:
        print(
            f"{reviewed.standing} have an earlier decision, which is only replaced by naming the image", file=sys.stderr
        )
    print(f"the next run of {dataset} [{category}] applies it, or: ad-assets materialize", file=sys.stderr)
    return 0


def load_line(options: argparse.Namespace) -> Benchmark:
    """The benchmark, if it has the production dataset that is named, on the store that belongs to it.

    Raises:
        ConfigError: it has not, or the store is another.
    """
    from ad_assets.production.store_identity import check_store, is_named_beside_images

    benchmark = load_config(options.config, options.set)
    dataset = benchmark.datasets.get(options.dataset)
    lines = [name for name, each in benchmark.datasets.items() if each.production]
    if dataset is None or not dataset.production:
        raise ConfigError(
            f"{benchmark.source} has no production dataset {options.dataset!r} (a dataset with the section "
            f"production); {did_you_mean(options.dataset, lines)}it has: {', '.join(lines) or 'none'}"
        )
    detector = getattr(options, "detector", None)
    lanes = [name for name, lane in dataset.detectors.items() if lane.has_champions]
    if detector is not None:
        check_name("lane", detector, lanes, options.dataset)
    # An empty store has no history, and decisions in another store have no effect.
    if not is_named_beside_images(dataset, benchmark.store):
        from ad_assets.defs.runs import open_instance  # imports Dagster, which takes longer than most decisions

        check_store(dataset, benchmark.store, open_instance(benchmark.source))
    return benchmark


def _categories(benchmark: Benchmark, options: argparse.Namespace) -> list[str]:
    """The categories of the dataset, which must include the one named on the command line."""
    try:
        categories = list(benchmark.datasets[options.dataset].reader.categories())
    except (ValueError, OSError) as error:
        raise ConfigError(f"{options.dataset}: {error}") from error
    if options.category is not None:
        check_name("category", options.category, categories)
    return categories


def _read(benchmark: Benchmark, options: argparse.Namespace) -> History:
    from ad_assets.production.champion_history import read_history

    _categories(benchmark, options)
    return read_history(benchmark.store, options.dataset, options.detector, options.category)


def _kind(benchmark: Benchmark, options: argparse.Namespace) -> str:
    return benchmark.datasets[options.dataset].detectors[options.detector].method_for(options.category).state_asset


def _shown(candidate: ChampionCandidate) -> list[str]:
    from ad_assets.metrics.catalogue import compared

    return [metric for metric in compared() if metric in candidate.numbers]
