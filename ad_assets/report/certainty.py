"""Which differences between detectors are more than chance, in words under a leaderboard.

Chance is in the categories, and in the seeds of what was drawn: a detector is called better where both leave it so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ad_assets.metrics.catalogue import find
from ad_assets.report.leaderboard import MEAN, STANDARD, BoardRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ad_assets.metrics.uncertainty import Pair

SURE = 0.05  # the adjusted p below which a difference is called one


def certainty(board: Sequence[BoardRow], most: int = 12) -> list[str]:
    """What differences of image AUROC are more than chance, in lines for people; none where nothing is compared.

    All pairs of detectors are compared, category by category, and those that differ over seeds.
    """
    from ad_assets.metrics.uncertainty import paired_comparison

    rows = [row for row in board if row.metric == "image_auroc" and row.protocol == STANDARD and row.value is not None]
    pairs = [pair for pair in paired_comparison(_by_category(board, STANDARD, "image_auroc")) if pair.categories > 1]
    if not pairs:
        return []
    test = f"  Wilcoxon's signed ranks over categories, {len(pairs)} pairs, Holm's adjustment"
    sure = sorted(filter(_is_sure, pairs), key=lambda pair: pair.adjusted_p)
    if not sure:
        least = min(pair.smallest_p for pair in pairs)
        few = (
            f" ({pairs[0].categories} categories cannot go below p = {least:.2g})" if least > SURE / len(pairs) else ""
        )
        return [f"no difference in image AUROC is sure at p = {SURE}{few}", test]
    over_seeds = _over_seeds(sure, {row.detector: row for row in rows if row.category == MEAN})
    both = [pair for pair, p in zip(sure, over_seeds, strict=True) if p is not None and p <= SURE]
    seeds = [pair for pair, p in zip(sure, over_seeds, strict=True) if p is not None and p > SURE]
    unknown = [pair for pair, p in zip(sure, over_seeds, strict=True) if p is None]
    p_values = dict(zip(((pair.first, pair.second) for pair in sure), over_seeds, strict=True))
    head = "differences in image AUROC that are sure" if both else "no difference in image AUROC is sure"
    return [
        f"{head} at p = {SURE}, over categories and over seeds",
        f"{test}; over seeds Welch's t, adjusted alike",
        *_lines(both, p_values, most),
        *(["sure over categories, not over seeds", *_lines(seeds, p_values, most)] if seeds else []),
        *(["sure over categories; nothing is known over seeds (draws: 5)"] if unknown else []),
        *_lines(unknown, p_values, most),
    ]


def _over_seeds(pairs: Sequence[Pair], means: Mapping[str, BoardRow]) -> list[float | None]:
    """Adjusted p over seeds of each pair; None where one seed of a detector in which it has a part is all there is."""
    from ad_assets.metrics.uncertainty import holm, seeds_comparison

    found: dict[int, float] = {}
    for place, pair in enumerate(pairs):
        rows = [means.get(name) for name in (pair.first, pair.second)]
        known = [(row.value, row.seed_std, row.draws or 1) for row in rows if row]
        fits = [(value, std, draws) for value, std, draws in known if value is not None and std is not None]
        if len(fits) == 2:
            found[place] = seeds_comparison(*fits)
    adjusted = dict(zip(found, holm(list(found.values())), strict=True))
    return [adjusted.get(place) for place in range(len(pairs))]


def _lines(pairs: Sequence[Pair], over_seeds: Mapping[tuple[str, str], float | None], most: int) -> list[str]:
    lines = []
    for pair in pairs[:most]:
        better, worse = (pair.first, pair.second) if pair.mean_difference >= 0 else (pair.second, pair.first)
        points, p = 100 * abs(pair.mean_difference), over_seeds[pair.first, pair.second]
        seeds = "" if p is None else f", over seeds {p:.2g}"
        lines.append(f"  {better} over {worse}: {points:.1f} points, p = {pair.adjusted_p:.2g}{seeds}")
    return [*lines, *([f"  ... and {len(pairs) - most} more"] if len(pairs) > most else [])]


def surely_best(board: Sequence[BoardRow], protocol: str, metric: str) -> str | None:
    """The detector that is better than each other one by more than chance, over categories and over seeds; else None.

    Of detectors with one seed, in which it has a part, nothing is sure over seeds (`draws`). Those that lack
    categories, whose means are of others than the rest, take no part.

    Args:
        board: rows of a leaderboard.
        protocol: such as ``standard``.
        metric: that is compared, category by category.
    """
    from ad_assets.metrics.uncertainty import paired_comparison

    values = _by_category(board, protocol, metric)
    most = max(map(len, values.values()), default=0)
    values = {detector: own for detector, own in values.items() if len(own) == most}
    better = find(metric).better
    if better == "neither" or len(values) < 2:
        return None
    means = {row.detector: row for row in board if (row.protocol, row.metric, row.category) == (protocol, metric, MEAN)}
    sure = list(filter(_is_sure, paired_comparison(values)))
    wins: dict[str, int] = {}
    for pair, p in zip(sure, _over_seeds(sure, means), strict=True):
        if p is not None and p <= SURE:
            first = (pair.mean_difference > 0) == (better == "higher")
            winner = pair.first if first else pair.second
            wins[winner] = wins.get(winner, 0) + 1
    return next((detector for detector, count in wins.items() if count == len(values) - 1), None)


def _is_sure(pair: Pair) -> bool:
    """Whether one of a pair is better by more than chance: by ranks, and in the mean too, which may say otherwise."""
    return pair.adjusted_p <= SURE and (pair.mean_difference > 0) == (pair.wins > pair.losses)


def _by_category(board: Sequence[BoardRow], protocol: str, metric: str) -> dict[str, dict[str, float]]:
    """Detector -> category -> value, where it is defined."""
    values: dict[str, dict[str, float]] = {}
    for row in board:
        if row.metric == metric and row.protocol == protocol and row.category != MEAN and row.value is not None:
            values.setdefault(row.detector, {})[row.category] = row.value
    return values
