"""Which differences between detectors are more than chance, in words under a leaderboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ad_assets.report.leaderboard import MEAN, STANDARD, BoardRow

if TYPE_CHECKING:
    from collections.abc import Sequence

SURE = 0.05  # the adjusted p below which a difference is called one


def certainty(board: Sequence[BoardRow], most: int = 12) -> list[str]:
    """What differences of image AUROC are more than chance, in lines for people; none where nothing is compared.

    All pairs of detectors are compared, category by category.
    """
    from ad_assets.metrics.uncertainty import paired_comparison

    values: dict[str, dict[str, float]] = {}
    for row in board:
        if row.metric == "image_auroc" and row.protocol == STANDARD and row.category != MEAN and row.value is not None:
            values.setdefault(row.detector, {})[row.category] = row.value
    pairs = [pair for pair in paired_comparison(values) if pair.categories > 1]
    if not pairs:
        return []
    test = f"  Wilcoxon's signed ranks over categories, {len(pairs)} pairs, Holm's adjustment"
    sure = sorted((pair for pair in pairs if pair.adjusted_p <= SURE), key=lambda pair: pair.adjusted_p)
    if not sure:
        least = min(pair.smallest_p for pair in pairs)
        few = (
            f" ({pairs[0].categories} categories cannot go below p = {least:.2g})" if least > SURE / len(pairs) else ""
        )
        return [f"no difference in image AUROC is sure at p = {SURE}{few}", test]
    lines = [f"differences in image AUROC that are sure at p = {SURE}", test]
    for pair in sure[:most]:
        better, worse = (pair.first, pair.second) if pair.mean_difference >= 0 else (pair.second, pair.first)
        lines.append(
            f"  {better} over {worse}: {100 * abs(pair.mean_difference):.1f} points, p = {pair.adjusted_p:.2g}"
        )
    return [*lines, *([f"  ... and {len(sure) - most} more"] if len(sure) > most else [])]
