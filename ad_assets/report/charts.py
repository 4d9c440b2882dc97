"""ROC, precision-recall and PRO curves as small SVG line charts, which the report's template draws in its own colours.

Matplotlib is left out: its import takes longer than all charts of a page, and its SVG writer, 35 ms a chart, knows no
dark theme and no titles of lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

WIDTH, HEIGHT = 264, 200  # of the plot's inside, in SVG units; about one unit a pixel on a laptop
TOLERANCE = 0.2  # units by which a drawn line may be off: a fifth of a pixel


@dataclass(frozen=True)
class Kind:
    """What a curve shows: title, names and ends of the axes."""

    title: str
    x_name: str
    y_name: str
    x_end: float = 1.0


KINDS = {
    "image_roc": Kind("ROC, images", "false positive rate", "true positive rate"),
    "image_pr": Kind("Precision and recall, images", "recall", "precision"),
    "roc": Kind("ROC, pixels", "false positive rate", "true positive rate"),
    "pr": Kind("Precision and recall, pixels", "recall", "precision"),
    "pro": Kind("PRO, defect regions", "false positive rate of pixels", "mean region overlap", 0.3),
}


@dataclass(frozen=True)
class ChartLine:
    """One detector's curve: SVG path data, and the detector's position in the report (its colour)."""

    detector: str
    colour: int
    path: str


@dataclass(frozen=True)
class Chart:
    """What a chart shows, and the line of each detector that has it."""

    kind: Kind
    lines: tuple[ChartLine, ...]
    width: int = WIDTH
    height: int = HEIGHT


def charts(curves: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]], detectors: Sequence[str]) -> list[Chart]:
    """The charts of one category, in the order of `KINDS`, with all detectors as lines.

    Args:
        curves: detector -> key of `KINDS` -> (x, y), each ``(P,)`` in 0..1, in drawing order.
        detectors: all detectors of the report, in order: the position gives the colour.

    Raises:
        ValueError: a kind or detector that is not known, or a curve that cannot be drawn.
    """
    for detector, kinds in curves.items():
        if detector not in detectors:
            raise ValueError(f"a curve of {detector!r}, which has no leaderboard rows: {', '.join(detectors)} have")
        if unknown := set(kinds) - set(KINDS):
            raise ValueError(f"curve {detector}/{sorted(unknown)[0]}: expected one of {', '.join(KINDS)}")
    made = []
    for key, kind in KINDS.items():
        lines = tuple(
            ChartLine(detector, colour, _path(*curves[detector][key], kind.x_end, f"{detector}/{key}"))
            for colour, detector in enumerate(detectors)
            if key in curves.get(detector, {})
        )
        if lines:
            made.append(Chart(kind, lines))
    return made


def _path(x: ArrayLike, y: ArrayLike, x_end: float, name: str) -> str:
    """SVG path data of a curve."""
    across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if across.ndim != 1 or across.shape != up.shape or not across.size:
        raise ValueError(f"curve {name}: x and y must be (P,) with P > 0, not {across.shape} and {up.shape}")
    points = np.stack([across * WIDTH / x_end, (1 - up) * HEIGHT], axis=-1)
    if not np.isfinite(points).all():
        raise ValueError(f"curve {name}: x or y holds a value that is not finite")
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in _simplified(points))


def _simplified(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Some of the points (P, 2) of a line, both ends among them, so that none is further than `TOLERANCE` from it.

    From each point that is kept the line goes straight as far as all points that it passes allow.
    """
    cells = np.rint(points / (TOLERANCE / 2))  # a curve of a million points has few that can be told apart
    moved = np.any(np.diff(cells, axis=0), axis=1)
    points = points[np.concatenate([[True], moved[:-1], [True]])] if len(points) > 2 else points
    kept, first = [0], 0
    for end in range(2, len(points)):
        along, passed = points[end] - points[first], points[first + 1 : end] - points[first]
        length = along @ along
        share = np.clip(passed @ along / length, 0, 1) if length else np.zeros(len(passed))
        if np.square(passed - share[:, None] * along).sum(axis=1).max() > (TOLERANCE / 2) ** 2:
            first = end - 1
            kept.append(first)
    return points[[*kept, len(points) - 1]]
