"""The HTML report: escaped, self-contained, honest rows first, numbers in their places."""

import base64
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from ad_assets.report.gallery import GalleryItem
from ad_assets.report.html import ReportInput, render
from ad_assets.report.leaderboard import build, typed
from ad_assets.report.pictures import to_jpeg

NASTY = "<img src=x onerror=alert(1)>\"'&amp;</title></script><script>alert(2)</script>.png"
VOID = {"meta", "img", "br", "link", "input"}
JPEG = to_jpeg(np.zeros((8, 24, 3), np.uint8))


class Page(HTMLParser):
    """What a browser sees: tags with attributes, and text by the nearest id above it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.handle_data(" ")  # so that neighbouring cells do not run together
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1][0] == tag, f"</{tag}> closes <{self.open[-1][0]}>"
        self.open.pop()
        self.handle_data(" ")

    def handle_data(self, data):
        if any(tag == "style" for tag, _ in self.open):
            return
        section = next((name for _, name in reversed(self.open) if name), "")
        self.text[section] = self.text.get(section, "") + data

    def words(self, section):
        return " ".join(self.text[section].split())


def row(category, metric, value, detector="pc", protocol="standard", n=30):
    return {
        "dataset": "mvtec_ad",
        "category": category,
        "detector": detector,
        "protocol": protocol,
        "metric": metric,
        "value": value,
        "n": n,
        "seconds": 1.0,
        "seed": 7,
        "fingerprint": "abcdef0123456789",
    }


def item(name="test/bad/000.png", defect_type="scratch", label=1, score=2.0, threshold=1.5):
    return GalleryItem(name, defect_type, label, score, threshold, JPEG)


@pytest.fixture
def report():
    rows = []
    for category, value in (("bottle", 0.98), ("metal_nut", 0.96)):
        for detector, less in (("pc", 0.0), ("other", 0.05)):
            rows += [
                row(category, "image_auroc", value - less, detector),
                row(category, "pixel_auroc", 0.9731 - less, detector),
                row(category, "aupro_0.01", 0.3579, detector),
                row(category, "image_f1", 0.911 - less, detector, "nominal_threshold"),
                row(category, "false_positives", 3, detector, "nominal_threshold"),
                row(category, "false_negatives", 4, detector, "nominal_threshold"),
                row(category, "image_f1", 0.8888, detector, "oracle_f1"),
                row(category, "best_iou", 0.4321, detector, "oracle_threshold"),
                row(category, "score_images_per_second", 50.0, detector, "timing"),
                row(category, "fit_seconds", 12.5, detector, "timing"),
            ]
    x = np.linspace(0, 1, 50)
    return ReportInput(
        dataset="mvtec_ad",
        created="2026-01-02 03:04 UTC",
        config_name="mvtec_ad.yaml",
        hardware="2 CPU cores",
        board=build(rows, {"pc": ("PatchCore-10", "MVTec AD")}),
        curves={"bottle": {"pc": {"roc": (x, x**0.2), "pro": (x, x**0.3)}, "other": {"roc": (x, x**0.5)}}},
        gallery={"bottle": {"pc": [item()]}},
        fingerprints={"image index": "0123abcd"},
    )


def test_numbers_stand_in_their_sections(report):
    page = Page(render(report))
    # Means 97.0 and 97.3; PatchCore-10 prints 100.0 twice for bottle and metal_nut, by pixel 98.6 and 98.4.
    assert "pc 97.0 100.0 −3.0 97.3 98.5 −1.2 35.8" in page.words("results")
    assert "other 92.0 – – 92.3 – – 35.8" in page.words("results")
    assert "AUPRO 0.01" in page.words("results")  # whatever limit the benchmark file asks for
    assert "pc 91.1 6 8" in page.words("decisions")
    assert "other 86.1 6 8" in page.words("decisions")
    assert "Fit, s Score, images/s pc 25.0 50.0 other 25.0 50.0" in page.words("speed")
    assert "bottle 98.0 100.0 −2.0 93.0 – –" in page.words("matrix")
    assert "pc beside PatchCore-10 on MVTec AD Roth et al." in page.words("papers")
    assert "Image AUROC: Printed as 99.0 in Table 1" in page.words("papers")
    assert "0123abcd" in page.words("provenance")
    assert "2026-01-02 03:04 UTC" in "".join(page.text.values())
    assert page.open == []


def test_axes_of_charts_end_where_their_curves_do(report):
    charts = render(report).split('<figure class="chart">')[1:]
    texts = [re.findall(r'text-anchor="(?:middle|end)">([^<]*)<', each.partition("</figure>")[0]) for each in charts]
    quarters = ["0", "0.25", "0.5", "0.75", "1"]
    assert [each[0::2] for each in (text[:10] for text in texts)] == [quarters, ["0", "0.075", "0.15", "0.225", "0.3"]]
    assert [text[1:10:2] for text in texts] == [quarters, quarters]


def test_oracle_rows_are_marked_and_apart(report):
    text = render(report)
    page = Page(text)
    assert "88.9" in page.words("oracle")
    assert "43.2" in page.words("oracle")
    assert "upper bounds" in page.words("oracle")
    for section in ("results", "decisions", "matrix", "speed"):
        assert "88.9" not in page.words(section)
        assert "43.2" not in page.words(section)
    assert text.index('id="results"') < text.index('id="decisions"') < text.index('id="oracle"')
    assert ("section", {"id": "oracle", "class": "oracle"}) in page.tags


def test_nothing_is_loaded_from_anywhere(report):
    text = render(report)
    page = Page(text)
    for _, attributes in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/jpeg;base64,"))
    assert not re.search(r"https?:|//[a-z]|url\(|@import|@font-face", text)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_every_link_in_the_contents_leads_somewhere(report):
    page = Page(render(report))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert max(Counter(ids).values()) == 1
    assert {a["href"] for tag, a in page.tags if tag == "a"} <= {f"#{name}" for name in ids}


def test_names_from_files_are_text_and_nothing_else(report):
    nasty = replace(
        report,
        dataset=NASTY,
        created=NASTY,
        config_name=NASTY,
        hardware=NASTY,
        board=report.board.assign(
            category=report.board.category.replace("bottle", NASTY), detector=report.board.detector + NASTY
        ),
        curves={NASTY: {name + NASTY: lines for name, lines in report.curves["bottle"].items()}},
        gallery={NASTY: {"pc" + NASTY: [item(name=NASTY, defect_type=NASTY)]}},
        fingerprints={NASTY: NASTY},
    )
    page = Page(render(nasty))
    assert [a["src"][:10] for tag, a in page.tags if tag == "img"] == ["data:image"]
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    harmless = Page(render(report))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]  # not one element more
    assert [set(a) for _, a in page.tags] == [set(a) for _, a in harmless.tags]
    assert page.words("results").count(NASTY) == 2
    alt = next(a["alt"] for tag, a in page.tags if tag == "img")
    assert alt.endswith(NASTY)


def test_a_name_that_is_no_unicode_can_still_be_written(report):
    broken = replace(report, gallery={"bottle": {"pc": [item(name="test/\udcff.png")]}})
    assert "test/?.png" in render(broken).encode("utf-8").decode("utf-8")


def test_gallery_shows_the_worst_first_with_their_numbers(report):
    items = [
        item("hit.png", score=9.0),
        item("pass.png", "good", 0, 0.1),
        item("mild miss.png", score=1.4),
        item("bad miss.png", score=0.3),
        item("mild alarm.png", "good", 0, 1.6),
        item("bad alarm.png", "good", 0, 7.25),
    ]
    page = Page(render(replace(report, gallery={"bottle": {"pc": items}})))
    words = page.words("category-0")
    places = [words.index(name) for name in ("bad alarm", "mild alarm", "bad miss", "mild miss", "hit.png", "pass.png")]
    assert places == sorted(places)
    assert "false alarm score 7.25 > 1.5 good bad alarm.png" in words
    assert "miss score 0.3 ≤ 1.5 scratch bad miss.png" in words
    assert "3 false alarms and 4 misses in 30 test images at threshold 1.5" in words
    images = [a for tag, a in page.tags if tag == "img"]
    assert [base64.b64decode(a["src"].partition(",")[2]) for a in images] == [JPEG] * 6
    assert {(a["width"], a["height"]) for a in images} == {("24", "8")}


def test_bold_is_the_best_of_complete_means(report):
    rows = [row(c, "image_auroc", v, d) for c in ("bottle", "metal_nut") for d, v in (("low", 0.8), ("top", 0.9))]
    rows += [row(r["category"], "false_negatives", 90 * r["value"], r["detector"], "nominal_threshold") for r in rows]
    rows += [
        row("bottle", "image_auroc", 0.99, "late"),
        row("bottle", "false_negatives", 1, "late", "nominal_threshold"),
    ]
    rows += [
        row(c, "false_positives", 5, d, "nominal_threshold") for c in ("bottle", "metal_nut") for d in ("low", "top")
    ]
    text = render(replace(report, board=build(rows, {}), curves={}, gallery={}))
    assert "late 99.0 1 of 2" in Page(text).words("results")
    bold = {
        name: re.findall(
            r'<td class="[^"]*best[^"]*"[^>]*>([^<]*)', text.partition(f'id="{name}"')[2].partition("</section>")[0]
        )
        for name in ("results", "decisions")
    }
    assert bold == {"results": ["90.0"], "decisions": ["144"]}  # not 99.0 of one category, not 10 = 10


def test_same_input_same_report(report):
    assert render(report) == render(report)


def test_a_bare_leaderboard_is_enough():
    rows = build([row("bottle", "image_auroc", 0.98)], {})
    page = Page(render(ReportInput("demo", "today", "demo.yaml", "cpu", rows)))
    assert "pc 98.0" in page.words("results")
    assert "paper" not in page.words("results")
    assert "oracle" not in page.text
    assert "speed" not in page.text


def test_pictures_and_curves_without_rows_are_refused(report):
    with pytest.raises(ValueError, match="no leaderboard rows: build the leaderboard first"):
        render(replace(report, board=report.board[:0]))
    with pytest.raises(ValueError, match="gallery: category 'pill' has no leaderboard rows; bottle, metal_nut have"):
        render(replace(report, gallery={"pill": {"pc": [item()]}}))
    with pytest.raises(ValueError, match="gallery: bottle/nobody has no leaderboard rows; pc, other have"):
        render(replace(report, gallery={"bottle": {"nobody": [item()]}}))
    with pytest.raises(ValueError, match="4 bytes that are no JPEG"):
        render(replace(report, gallery={"bottle": {"pc": [replace(item(), jpeg=b"GIF8")]}}))
    with pytest.raises(ValueError, match="curves: category 'pill'"):
        render(replace(report, curves={"pill": {}}))


def test_what_was_found_about_files_and_the_regions_that_vanish_are_told_escaped(report):
    hidden = [row("bottle", "regions_vanished", 3.0), row("bottle", "images_outside_roi", 2.0)]
    added = [report.board[:1].assign(**each) for each in hidden]
    board = typed(pd.concat([report.board, *added], ignore_index=True))
    text = render(replace(report, board=board, problems={"bottle": [f"warning: {NASTY}"] * 25}))
    assert NASTY not in text
    page = Page(text)
    told = page.words("category-0")
    assert told.count(f"warning: {NASTY}") == 20
    assert "... and 5 more" in told
    assert "pc: 3 regions of the masks vanish in its frame" in told
    assert "pc: 2 test images have defects outside the region of interest alone" in told
    assert "regions of the masks vanish" not in page.words("category-1")
