"""One table over several datasets: what is best, what is absent, what a paper has."""

import pandas as pd

from ad_assets.report.comparison import compare, render_comparison, text_table
from ad_assets.report.leaderboard import build


def _rows(dataset: str, values: dict[str, dict[str, float | None]]) -> list[dict[str, object]]:
    common = {"protocol": "standard", "n": 9, "seconds": None, "seed": 0, "fingerprint": "f"}
    return [
        {"dataset": dataset, "category": category, "detector": detector, "metric": metric, "value": value, **common}
        for detector, metrics in values.items()
        for metric, value in metrics.items()
        for category in ("bottle", "cable")
    ]


def test_lines_leads_and_papers() -> None:
    mix = build(
        _rows(
            "mix",
            {"a": {"image_auroc": 0.9, "pixel_auroc": 0.81234}, "<b>": {"image_auroc": 0.8, "pixel_auroc": 0.81241}},
        ),
        {"a": ("PatchCluster-25", "MVTec-Mix")},
    )
    ano = build(_rows("ano", {"a": {"image_auroc": None, "pixel_auroc": 0.7}}), {})
    table = compare(pd.concat([mix, ano], ignore_index=True))
    assert table.detectors == ("a", "<b>")
    assert [(line.dataset, line.metric) for line in table.lines] == [
        ("mix", "Image AUROC"),
        ("mix", "Pixel AUROC"),
        ("ano", "Pixel AUROC"),
    ]
    # What shows the same is equally good, and a detector that was not run is not worse.
    assert [[cell.best for cell in line.cells] for line in table.lines] == [[True, False], [True, True], [True, False]]
    assert table.leads() == {"a": 3, "<b>": 1}
    text = text_table(table)
    assert "best on so many of 3 lines: a 3, <b> 1" in text
    assert "(98.9)" in text  # the mean of the paper's bottle and cable
    page = render_comparison("<i>two</i>", table)
    assert "<i>two" not in page
    assert "&lt;b&gt;" in page
    assert "98.9" in page


def test_categories_without_test_images_are_named_beside_the_table() -> None:
    mix = build(_rows("mix", {"a": {"image_auroc": 0.9}}), {})
    unseen = [{**row, "value": None, "n": 0} for row in _rows("ano", {"a": {"image_auroc": None}})]
    table = compare(pd.concat([mix, build(unseen, {})], ignore_index=True))
    assert table.notes == ("ano: no test images: bottle, cable",)
    assert text_table(table).endswith("\n\nano: no test images: bottle, cable")
    assert '<p class="about">ano: no test images: bottle, cable.</p>' in render_comparison("both", table)
