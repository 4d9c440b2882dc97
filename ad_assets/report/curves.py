"""Curves over the epochs of a training, as one small picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ad_assets.report.picture_files import figure_png


def plot(title: str, curves: Mapping[str, Sequence[float | None]], epochs: Sequence[int] | None = None) -> bytes:
    """One plot a curve, as PNG.

    Args:
        title: above the first plot.
        curves: name -> one value an epoch; None where it is not defined.
        epochs: their numbers; None: 1, 2, ...
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(3.2 * len(curves), 2.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (axes, (name, values)) in enumerate(
        zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True)
    ):
        places = list(epochs) if epochs is not None else list(range(1, len(values) + 1))
        known = [(x, y) for x, y in zip(places, values, strict=True) if y is not None]
        axes.plot([x for x, _ in known], [y for _, y in known], linewidth=1.2, marker="." if len(known) < 20 else "")
        axes.set_title(title if place == 0 else " ", loc="left", fontsize=9, parse_math=False)
        axes.set_xlabel("epoch", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(name.replace("_", " "), fontsize=8, parse_math=False)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(linewidth=0.4, alpha=0.5)
    return figure_png(figure)
