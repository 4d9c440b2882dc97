"""The page of a comparison, from its records alone: how well, where differences are from, what it costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.peers.judge import METRICS
from tests.peers.lanes import AGAIN, ANEW, CHANGED, FIRST, MORE
from tests.peers.records import OURS, THEIR_DRAW, THEIRS, Record

GOAL = 10  # times as fast as anomalib
APART = 0.3  # points between the ranges of the seeds, from which a difference wants an explanation
STEPS = {
    FIRST: "first run",
    AGAIN: "the same again",
    CHANGED: "a changed setting",
    MORE: "five more images",
}


@dataclass(frozen=True)
class Spread:
    """Some figures of one kind."""

    values: tuple[float, ...]

    @property
    def middle(self) -> float:
        """Their mean."""
        return statistics.fmean(self.values)

    def text(self, decimals: int = 1, of: Callable[[Sequence[float]], float] = statistics.fmean) -> str:
        """The middle, and in brackets lowest and highest where they differ."""
        low, high, middle = (
            f"{value:,.{decimals}f}" for value in (min(self.values), max(self.values), of(self.values))
        )
        return middle if low == high else f"{middle} ({low} to {high})"

    def gap(self, other: Spread) -> float:
        """How far two ranges are apart; 0 where they meet."""
        return max(0.0, min(self.values) - max(other.values), min(other.values) - max(self.values))


def quality(records: Iterable[Record], dataset: str, detector: str, metric: str) -> dict[str, Spread]:
    """A metric of each seed, as the mean of the categories, by side and experiment.

    Raises:
        ValueError: a seed of a side lacks a category that another has: their means would not be of the same images.
    """
    found: dict[str, dict[int, dict[str, float]]] = {}
    for record in records:
        if (record.dataset, record.detector, record.step) == (dataset, detector, FIRST) and record.metrics:
            found.setdefault(record.side, {}).setdefault(record.seed, {})[record.category] = record.metrics[metric]
    categories = {name for seeds in found.values() for values in seeds.values() for name in values}
    for side, seeds in found.items():
        for seed, values in seeds.items():
            if missing := sorted(categories - set(values)):
                raise ValueError(
                    f"{dataset}, {detector}: {side} with seed {seed} lacks {', '.join(missing)}: go on first"
                )
    return {
        side: Spread(tuple(statistics.fmean(values.values()) for _, values in sorted(seeds.items())))
        for side, seeds in found.items()
    }


def page(records: Sequence[Record], head: str, changed: dict[str, str]) -> str:
    """The whole page.

    Args:
        records: of all runs.
        head: title, and what is compared how.
        changed: what was changed in a changed setting, by detector.
    """
    parts = [head, "## How well", _quality_table(records), _differences(records), "## What it costs"]
    parts += [_goal(records), _cost_table(records, changed), _after_update(records)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _compared(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Datasets and detectors that both sides have been measured on, in order."""
    both = [{(r.dataset, r.detector) for r in records if r.side == side} for side in (OURS, THEIRS)]
    return [pair for pair in dict.fromkeys((r.dataset, r.detector) for r in records) if pair in both[0] & both[1]]


def _quality_table(records: Sequence[Record]) -> str:
    rows = []
    for dataset, detector in _compared(records):
        for metric in METRICS:
            measured = quality(records, dataset, detector, metric)
            ours, theirs = measured[OURS], measured[THEIRS]
            gap = ours.gap(theirs)
            alone = ", of one seed" if 1 in (len(ours.values), len(theirs.values)) else ""
            apart = f"**{gap:.2f}**{alone}" if gap > APART else "no"
            seeds = " and ".join(dict.fromkeys(str(len(side.values)) for side in (ours, theirs)))
            difference = f"{ours.middle - theirs.middle:+.2f}"
            rows.append([dataset, detector, metric, seeds, ours.text(2), theirs.text(2), difference, apart])
    head = ["images", "detector", "metric", "seeds", "ours", "anomalib", "difference", f"apart by more than {APART}"]
    return _table(head, rows)


def _differences(records: Sequence[Record]) -> str:
    """Each difference beyond the seeds, with what is left of it where only the selection, or only the code, differs."""
    rows = []
    for dataset, detector in _compared(records):
        for metric in METRICS:
            measured = quality(records, dataset, detector, metric)
            if THEIR_DRAW in measured:
                ours, theirs, mixed = (measured[side] for side in (OURS, THEIRS, THEIR_DRAW))
                selection, code = ours.middle - mixed.middle, mixed.middle - theirs.middle
                beyond = "yes" if ours.gap(theirs) > APART else "no"
                rows.append([dataset, detector, metric, beyond, mixed.text(2), f"{selection:+.2f}", f"{code:+.2f}"])
    if not rows:
        return ""
    head = [
        "images",
        "detector",
        "metric",
        "apart",
        THEIR_DRAW,
        "ours less this: the draw",
        "this less anomalib: the code",
    ]
    return "\n\n".join(["### Where differences are from", EXPERIMENT, _table(head, rows)])


EXPERIMENT = """\
The rows, or the channels, that anomalib drew are used by this project's code. What ours is above that is the draw's
doing: another coreset, other channels. What that is above anomalib is the code's behind the draw. PatchCore's image
scores are by the same equation. Maps are made otherwise: anomalib repeats each patch score over its pixels (nearest)
and then smooths; this project interpolates bilinearly, as the paper does, and then smooths. `padim, all channels` is
the control without a draw: both compute the same Gaussians, and their maps differ at the border alone, where anomalib
mirrors without the edge."""


def _cost_table(records: Sequence[Record], changed: dict[str, str]) -> str:
    rows = []
    for dataset, detector in _compared(records):
        for step, text in STEPS.items():
            pairs = _pairs(records, dataset, detector, step)
            if pairs:
                ours, theirs = zip(*pairs, strict=True)
                what = f"{text}: {changed[detector]}" if step == CHANGED else text
                cells = [
                    f"{_text(side, 'wall')} / {_text(side, 'cpu')} / {_text(side, 'peak_mb', 0)}"
                    for side in (ours, theirs)
                ]
                ratios = [_times(pairs, name).text(1, statistics.median) for name in ("wall", "cpu", "peak_mb")]
                rows.append([dataset, detector, what, str(len(pairs)), *cells, *ratios])
    sides = [f"{side}: wall s / CPU s / peak MB" for side in (OURS, THEIRS)]
    return _table(["images", "detector", "asked", "runs", *sides, "wall, times", "CPU, times", "memory, times"], rows)


def _goal(records: Sequence[Record]) -> str:
    """How many times anomalib's processor seconds are ours, of each thing asked, over all that is compared."""
    told = []
    for step, text in STEPS.items():
        pairs = [pair for compared in _compared(records) for pair in _pairs(records, *compared, step)]
        if pairs:
            times = _times(pairs, "cpu")
            met = "" if statistics.median(times.values) >= GOAL else f", short of the goal of {GOAL}"
            told.append(f"{text} {times.text(1, statistics.median)}{met}")
    return f"Processor seconds of anomalib, in ours, over all runs: {'; '.join(told)}." if told else ""


def _times(pairs: Sequence[tuple[Record, Record]], name: str) -> Spread:
    """How many times theirs is ours."""
    return Spread(tuple(getattr(theirs.cost, name) / getattr(ours.cost, name) for ours, theirs in pairs))


def _text(records: Sequence[Record], name: str, decimals: int = 1) -> str:
    return Spread(tuple(getattr(record.cost, name) for record in records)).text(decimals, statistics.median)


def _pairs(records: Sequence[Record], dataset: str, detector: str, step: str) -> list[tuple[Record, Record]]:
    """Runs of ours and of theirs that were made in turn."""
    steps = {OURS: step, THEIRS: ANEW.get(step, step)}
    found = {side: {r.run: r for r in records if (r.side, r.step) == (side, steps[side])} for side in steps}
    runs = [run for run in found[OURS] if run in found[THEIRS] and run[0] == dataset and run[2] == detector]
    return [(found[OURS][run], found[THEIRS][run]) for run in runs]


def _after_update(records: Sequence[Record]) -> str:
    """Metrics of an updated state beside those of one fitted on all images, for whoever asks what an update costs."""
    rows = []
    first = {record.run: record for record in records if (record.side, record.step) == (OURS, FIRST)}
    for dataset, detector in _compared(records):
        found = [r for r in records if (r.dataset, r.detector, r.side, r.step) == (dataset, detector, OURS, MORE)]
        for metric in METRICS if found else ():
            updated, fitted = (
                statistics.fmean(r.metrics[metric] for r in these) for these in (found, [first[r.run] for r in found])
            )
            rows.append([dataset, detector, metric, f"{updated:.2f}", f"{fitted:.2f}"])
    if not rows:
        return ""
    text = "Of ours, after five more images (mean of the categories), and fitted on all of them at once:"
    return "\n\n".join([text, _table(["images", "detector", "metric", "updated", "fitted"], rows)])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
