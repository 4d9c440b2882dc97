"""Curves of a numbered figure: means over categories as a table of sampled points, and as a plot.

Papers print no points of these, so ours stand alone. A mean curve is that of the categories' values at the same place,
and those of all draws of a lane.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ad_assets.papers.numbered_tables import Detectors
from ad_assets.report.charts import KINDS
from ad_assets.report.leaderboard import STANDARD
from ad_assets.report.numbered.cells import Block, Cell, Measured
from ad_assets.report.studies import mean_and_spread

if TYPE_CHECKING:
    import numpy as np

LOSS = "loss"
AREAS = {
    "roc": "pixel_auroc",
    "pr": "pixel_ap",
    "pro": "aupro_0.30",
    "image_roc": "image_auroc",
    "image_pr": "image_ap",
}
SAMPLED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
EPOCHS_SHOWN = 8
DRAWN = 201  # points of a plotted curve


def curve_blocks(part: Detectors, measured: Measured) -> list[Block]:
    """One block a curve: its area and sampled values in percent; of losses, values at some epochs."""
    found = []
    for curve in part.metrics:
        if curve == LOSS:
            found.append(_loss_block(part, measured))
            continue
        kind = KINDS[curve]
        places = [place for place in SAMPLED if place <= kind.x_end]
        lines = []
        for name, row in part.rows.items():
            areas: dict[int, list[float]] = {}
            for each in measured.rows:
                if (each["detector"], each["protocol"], each["metric"]) == (row.detector, STANDARD, AREAS[curve]):
                    areas.setdefault(each["draw"], []).extend([] if each["value"] is None else [each["value"]])
            drawn = [math.fsum(values) / len(values) for values in areas.values() if values]
            mean, spread = mean_and_spread(drawn) if drawn else (None, 0.0)
            sampled = mean_curve(measured, row.detector, curve, places)
            numbers = [mean, *(sampled if sampled is not None else [None] * len(places))]
            lane = row.detector is not None
            area, *rest = (Cell(None if n is None else 100 * float(n), lane=lane) for n in numbers)
            lines.append((name, (replace(area, spread=100 * spread), *rest)))
        columns = ("area", *(f"at {place:g}" for place in places))
        title = f"{kind.title}: {kind.y_name} in %, at {kind.x_name}"
        found.append(Block(title, columns, tuple(lines), "mean over categories"))
    return found


def mean_curve(measured: Measured, detector: str | None, curve: str, places: Sequence[float]) -> np.ndarray | None:
    """The mean over categories and draws of one curve at some places (P,); None where there is none."""
    import numpy as np

    drawn = [each[curve] for each in measured.curves.get(detector or "", {}).values() if each.get(curve)]
    if not drawn:
        return None
    return np.mean([_interpolated(points, places) for points in drawn], axis=0)


def _interpolated(points: Sequence[Sequence[float]], places: Sequence[float]) -> np.ndarray:
    import numpy as np

    x, y = (np.asarray(axis, float) for axis in points)
    order = np.lexsort((np.arange(len(x)), x))
    return np.interp(places, x[order], y[order])


def mean_losses(measured: Measured, detector: str | None) -> dict[str, list[float]]:
    """Loss -> its mean over categories and draws, epoch by epoch, as far as all have trained."""
    runs = [each[LOSS] for each in measured.curves.get(detector or "", {}).values() if each.get(LOSS)]
    names = list(dict.fromkeys(name for run in runs for name in run))
    return {
        name: [math.fsum(values) / len(values) for values in zip(*(run[name] for run in runs if name in run))]  # noqa: B905 - to the shortest
        for name in names
    }


def _loss_block(part: Detectors, measured: Measured) -> Block:
    found = {name: mean_losses(measured, row.detector) for name, row in part.rows.items()}
    length = max((len(values) for losses in found.values() for values in losses.values()), default=0)
    step = max(1, (length - 1) / (EPOCHS_SHOWN - 1))
    epochs = list(dict.fromkeys(round(place * step) for place in range(EPOCHS_SHOWN) if place * step <= length - 1))
    lines = [
        (
            f"{name}: {loss}" if len(losses) > 1 else name,
            tuple(Cell(values[e] if e < len(values) else None, decimals=None) for e in epochs),
        )
        for name, losses in found.items()
        for loss, values in (losses or {LOSS: []}).items()
    ]
    columns = tuple(f"epoch {epoch + 1}" for epoch in epochs)
    return Block("mean loss of an epoch", columns, tuple(lines), "mean over categories")


def plot(title: str, part: Detectors, measured: Measured) -> bytes:
    """All curves of a part side by side, a PNG; a loss has the range of categories and draws around it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(part.metrics), 3.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, curve in zip(figure.subplots(1, len(part.metrics), squeeze=False)[0], part.metrics, strict=True):
        if curve == LOSS:
            _draw_losses(axes, part, measured)
        else:
            _draw_curves(axes, curve, part, measured)
        if axes.has_data():
            axes.legend(fontsize=7, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(linewidth=0.4, alpha=0.5)
    figure.suptitle(title, fontsize=10, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_curves(axes: Any, curve: str, part: Detectors, measured: Measured) -> None:
    kind = KINDS[curve]
    places = [kind.x_end * place / (DRAWN - 1) for place in range(DRAWN)]
    for name, row in part.rows.items():
        values = mean_curve(measured, row.detector, curve, places)
        if values is not None:
            axes.plot(places, values, label=name, linewidth=1.2)
    axes.set_title(kind.title, fontsize=9)
    axes.set_xlabel(kind.x_name, fontsize=8)
    axes.set_ylabel(kind.y_name, fontsize=8)


def _draw_losses(axes: Any, part: Detectors, measured: Measured) -> None:
    for name, row in part.rows.items():
        runs: Mapping[tuple[str, int], Any] = measured.curves.get(row.detector or "", {})
        for loss, values in mean_losses(measured, row.detector).items():
            epochs = range(1, len(values) + 1)
            every = [run[LOSS][loss][: len(values)] for run in runs.values() if loss in run.get(LOSS, {})]
            (line,) = axes.plot(epochs, values, label=f"{name}, {loss}", linewidth=1.2)
            low, high = (list(map(end, zip(*every, strict=True))) for end in (min, max))
            axes.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel("loss", fontsize=8)
