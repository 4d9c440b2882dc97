"""Studies as tables: means over draws within categories, then over categories; spread from draw to draw."""

import io

from PIL import Image

from ad_assets.report.studies import plot, summarise, table, text_table


def row(variant: str, category: str, metric: str, value: float | None, draw: int = 0, defect: str = "") -> dict:
    return {
        "variant": variant,
        "category": category,
        "metric": metric,
        "value": value,
        "draw": draw,
        "defect_type": defect,
        "n": 10,
    }


ROWS = [
    row("few", "bolt", "image_auroc", 0.8, 0),
    row("few", "bolt", "image_auroc", 0.6, 1),
    row("few", "nut", "image_auroc", 1.0, 0),
    row("few", "nut", "image_auroc", 0.8, 1),
    row("few", "bolt", "image_auroc", 0.5, 0, "spot"),
    row("few", "bolt", "score_images_per_second", 123.4),
    row("all", "bolt", "image_auroc", 0.9),
    row("all", "nut", "image_auroc", None),
    row("all", "bolt", "pixel_auroc", 0.1 + 0.2, 0),
    row("all", "bolt", "pixel_auroc", 0.3, 1),
]


def test_means_and_spread() -> None:
    summary = summarise(ROWS)
    assert summary.variants == ("few", "all")
    few = summary.cells["few", "image_auroc", ""]
    # Draw 0: (0.8 + 1.0) / 2, draw 1: (0.6 + 0.8) / 2.
    assert abs(few.mean - 0.8) < 1e-12
    assert abs(few.spread - 0.1 * 2**0.5) < 1e-12
    assert few.categories == 2
    assert summary.cells["all", "image_auroc", ""].categories == 1
    assert summary.cells["all", "pixel_auroc", ""].spread == 0  # equal but for rounding
    assert summary.defects == ["spot"]


def test_table() -> None:
    columns, rows = table(summarise(ROWS), defects=True)
    assert columns == ["variant", "image AUROC, %", "pixel AUROC, %", "spot", "score, images/s"]
    assert rows == [["few", "80.0 ±14.1", "-", "50.0", "123"], ["all", "90.0", "30.0", "-", "-"]]
    assert "spot" not in text_table(summarise(ROWS))


def test_the_plot_is_a_picture_whatever_the_names() -> None:
    rows = [row(name, "bolt", "image_auroc", 0.9) for name in ("$x^{", "a" * 80, "<b>")]
    picture = Image.open(io.BytesIO(plot("title $", summarise(rows))))
    assert (picture.format, picture.size) == ("PNG", (900, 340))
