"""The page of a category in a report: escaped, self-contained, pictures once, the worst first with their numbers."""

import base64
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ad_assets.report.category_page import CategoryPage, render_category
from ad_assets.report.gallery import GalleryItem
from ad_assets.report.leaderboard import BoardRow
from ad_assets.report.picture_files import to_jpeg
from ad_assets.report.threshold_section import LaneScores
from tests.report.test_index_page import NASTY, SCRIPT
from tests.support.html_pages import Page

PHOTO, HEAT = (to_jpeg(np.full((8, width, 3), width, np.uint8)) for width in (19, 8))


def row(metric, value, detector="pc", protocol="standard", n=30):
    place = ("mvtec_ad", "bottle", detector, protocol, metric, value, n)
    return BoardRow(*place, 1.0, 7, "abcdef0123456789", "", "", "", None, None)


def item(name="test/bad/000.png", defect_type="scratch", label=1, score=2.0, threshold=1.5):
    return GalleryItem(name, defect_type, label, score, threshold, PHOTO, HEAT)


@pytest.fixture
def report():
    rows = []
    for detector, less in (("pc", 0.0), ("other", 0.05)):
        rows += [
            row("image_auroc", 0.98 - less, detector),
            row("image_f1", 0.911 - less, detector, "nominal_threshold"),
            row("false_positives", 3, detector, "nominal_threshold"),
            row("false_negatives", 4, detector, "nominal_threshold"),
            row("best_iou", 0.4321, detector, "oracle_threshold"),
        ]
    x = np.linspace(0, 1, 50)
    return CategoryPage(
        dataset="mvtec_ad",
        category="bottle",
        created="2026-01-02 03:04 UTC",
        config_name="mvtec_ad.yaml",
        detectors=("failed", "pc", "other"),
        rows=rows,
        index="../index.html",
        curves={"pc": {"roc": (x, x**0.2), "pro": (x, x**0.3)}, "other": {"roc": (x, x**0.5)}},
        gallery={"pc": [item()], "other": [item()]},
        fingerprints={"image index": "0123abcd"},
        left_out=["failed"],
    )


def test_numbers_stand_in_their_sections(report):
    page = Page(render_category(report))
    assert "pc 98.0 other 93.0" in page.words("results")
    assert "pc 91.1 3 4 other 86.1 3 4" in page.words("decisions")
    assert "43.2" in page.words("oracle")
    assert "43.2" not in page.words("results")
    assert "Left out, not up to date: failed." in page.words("content")
    assert "best" not in re.findall(r'class="([^"]*)"', render_category(report))
    assert page.open == []


def test_thresholds_are_drawn_in_words_too_and_name_the_key_of_the_category(report):
    scores = LaneScores("pc", [0.5, 2.0], [0, 1], ["good", "<b>bad"], 1.5, 0.05, [1.0, 1.5])
    text = render_category(replace(report, scores=[scores]))
    page = Page(text)
    words = page.words("thresholds")
    assert "datasets.mvtec_ad.decision.categories.bottle.false_alarm_rate" in words
    assert "anomalous: 1 images, 1 above the threshold" in words
    assert "5 % (17 nominal images too few), now 1.5 333 100 % (1 of 1)" in words
    [label] = re.findall(r'role="img" aria-label="(Image scores of [^"]*)"', text)
    assert label.startswith("Image scores of pc, threshold 1.5. good, in training: 2 images, 0 above")
    assert "<b>bad" not in text
    assert 'id="thresholds"' not in render_category(report)
    with pytest.raises(ValueError, match="scores of 'strange'"):
        render_category(replace(report, scores=[replace(scores, detector="strange")]))


def test_axes_of_charts_end_where_their_curves_do(report):
    charts = render_category(report).split('<figure class="chart">')[1:]
    texts = [re.findall(r'text-anchor="(?:middle|end)">([^<]*)<', each.partition("</figure>")[0]) for each in charts]
    quarters = ["0", "0.25", "0.5", "0.75", "1"]
    assert [each[0::2] for each in (text[:10] for text in texts)] == [quarters, ["0", "0.075", "0.15", "0.225", "0.3"]]
    assert [text[1:10:2] for text in texts] == [quarters, quarters]


def test_nothing_is_loaded_from_anywhere_and_one_script_runs(report):
    text = render_category(report)
    page = Page(text)
    for _, attributes in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "../index.html", "data:image/jpeg;base64,"))
    plain = re.sub(r"url\(data:image/jpeg;base64,[A-Za-z0-9+/=]*\)", "", text.replace(SCRIPT, ""))
    assert not re.search(r"https?:|//[a-z]|url\(|@import|@font-face", re.sub(r'src="data:[^"]*"', "", plain))
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    assert text.count("<script") == text.count(f"<script>{SCRIPT}</script>") == 1


def test_every_link_in_the_contents_leads_somewhere(report):
    page = Page(render_category(report))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert max(Counter(ids).values()) == 1
    assert {a["href"] for a in page.attributes("a")} - {f"#{name}" for name in ids} == {"../index.html"}


def test_names_from_files_are_text_and_nothing_else(report):
    nasty = replace(
        report,
        dataset=NASTY,
        config_name=NASTY,
        detectors=[name + NASTY for name in report.detectors],
        rows=[replace(each, detector=each.detector + NASTY) for each in report.rows],
        curves={name + NASTY: lines for name, lines in report.curves.items()},
        gallery={name + NASTY: [item(name=NASTY, defect_type=NASTY)] for name in ("pc", "other")},
        fingerprints={NASTY: NASTY},
        left_out=[NASTY],
    )
    page, harmless = Page(render_category(nasty)), Page(render_category(report))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]  # not one element more
    assert [set(a) for _, a in page.tags] == [set(a) for _, a in harmless.tags]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all(a["alt"].endswith(NASTY) for a in page.attributes("img"))


def test_a_name_that_is_no_unicode_can_still_be_written(report):
    broken = replace(report, gallery={"pc": [item(name="test/\udcff.png")]})
    assert "test/?.png" in render_category(broken).encode("utf-8").decode("utf-8")


def test_gallery_shows_the_worst_first_with_their_numbers(report):
    items = [
        item("hit.png", score=9.0),
        item("pass.png", "good", 0, 0.1),
        item("mild miss.png", score=1.4),
        item("bad miss.png", score=0.3),
        item("mild alarm.png", "good", 0, 1.6),
        item("bad alarm.png", "good", 0, 7.25),
    ]
    page = Page(render_category(replace(report, gallery={"pc": items})))
    words = page.words("pictures")
    places = [words.index(name) for name in ("bad alarm", "mild alarm", "bad miss", "mild miss", "hit.png", "pass.png")]
    assert places == sorted(places)
    assert "false alarm score 7.25 > 1.5 good bad alarm.png" in words
    assert "miss score 0.3 ≤ 1.5 scratch bad miss.png" in words
    assert "3 false alarms and 4 misses in 30 test images at threshold 1.5" in page.words("lane-1")


def test_a_photograph_that_several_lanes_show_is_embedded_once(report):
    text = render_category(report)
    embedded = [base64.b64decode(each) for each in re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", text)]
    assert sorted(embedded) == sorted([PHOTO, HEAT, HEAT])
    page = Page(text)
    assert [(a["width"], a["height"], a["loading"]) for a in page.attributes("img")] == [("8", "8", "lazy")] * 2
    assert text.count('class="photo photo-0"') == 2
    assert [set(a) for a in page.attributes("details")][:2] == [{"class", "data-lane"}] * 2  # folded


def test_what_has_no_rows_or_cannot_be_read_is_refused(report):
    with pytest.raises(ValueError, match="bottle has no metric rows"):
        render_category(replace(report, rows=[]))
    with pytest.raises(ValueError, match="gallery of 'failed', which has no metric rows here; pc, other have"):
        render_category(replace(report, gallery={"failed": [item()]}))
    with pytest.raises(ValueError, match="curves of 'pill'"):
        render_category(replace(report, curves={"pill": {}}))
    with pytest.raises(ValueError, match="rows of 'pc'"):
        render_category(replace(report, detectors=("other",)))
    with pytest.raises(ValueError, match="4 bytes that are no JPEG"):
        render_category(replace(report, gallery={"pc": [replace(item(), heat=b"GIF8")]}))


def test_what_was_found_about_files_and_the_regions_that_vanish_are_told_escaped(report):
    hidden = [row("regions_vanished", 3.0), row("images_outside_roi", 2.0)]
    text = render_category(
        replace(report, rows=[*report.rows, *hidden], problems=[f"warning: {NASTY}"] * 25, gallery={})
    )
    assert NASTY not in text
    told = Page(text).words("files")
    assert told.count(f"warning: {NASTY}") == 20
    assert "... and 5 more" in told
    assert "pc: 3 regions of the masks vanish in its frame" in told
    assert "pc: 2 test images have defects outside the region of interest alone" in told
