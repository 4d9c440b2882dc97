"""The first page of a report: escaped, self-contained, honest rows first, numbers in their places."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ad_assets.report.index_page import IndexPage, render_index
from ad_assets.report.leaderboard import build
from ad_assets.report.templates import TEMPLATES
from tests.support.html_pages import Page

NASTY = "<img src=x onerror=alert(1)>\"'&amp;</title></script><script>alert(2)</script>.png"
SCRIPT = TEMPLATES.joinpath("pages.js").read_text(encoding="utf-8")


LANES = ("top", "low", "mid", "late")


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
    return IndexPage(
        dataset="mvtec_ad",
        created="2026-01-02 03:04 UTC",
        config_name="mvtec_ad.yaml",
        hardware="2 CPU cores",
        board=build(rows, {"pc": ("PatchCore-10", "MVTec AD")}),
        pages={"bottle": "categories/bottle.html"},
        fingerprints={"image index": "0123abcd"},
    )


def test_numbers_stand_in_their_sections(report):
    page = Page(render_index(report))
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


def test_oracle_rows_are_marked_and_apart(report):
    text = render_index(report)
    page = Page(text)
    assert "88.9" in page.words("oracle")
    assert "43.2" in page.words("oracle")
    assert "upper bounds" in page.words("oracle")
    for section in ("results", "decisions", "matrix", "speed"):
        assert "88.9" not in page.words(section)
        assert "43.2" not in page.words(section)
    assert text.index('id="results"') < text.index('id="decisions"') < text.index('id="oracle"')
    assert ("section", {"id": "oracle", "class": "oracle"}) in page.tags


def test_nothing_is_loaded_from_anywhere_and_one_script_runs(report):
    text = render_index(report)
    page = Page(text)
    for _, attributes in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert attributes.get(name, "#").startswith("#") or attributes[name] == "categories/bottle.html"
    assert not re.search(r"https?:|//[a-z]|url\(|@import|@font-face", text.replace(SCRIPT, ""))
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    assert text.count("<script") == text.count(f"<script>{SCRIPT}</script>") == 1
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_every_link_in_the_contents_leads_somewhere(report):
    page = Page(render_index(report))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert max(Counter(ids).values()) == 1
    links = {a["href"] for a in page.attributes("a")}
    assert links - {f"#{name}" for name in ids} == {"categories/bottle.html"}


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
        pages={NASTY: "categories/bottle.html"},
        fingerprints={NASTY: NASTY},
    )
    page, harmless = Page(render_index(nasty)), Page(render_index(report))
    assert sorted(tag for tag, _ in page.tags) == sorted(tag for tag, _ in harmless.tags)  # not one element more
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.words("results").count(NASTY) == 2


def test_bold_is_what_is_better_than_all_others_by_more_than_chance(report):
    random = np.random.default_rng(0)
    names = [f"c{number:02}" for number in range(12)]
    rows = []
    for name in names:
        value = 0.8 + 0.1 * random.random()
        rows += [row(name, "image_auroc", value + more, d) for d, more in (("top", 0.05), ("low", 0.0), ("mid", 0.01))]
        # One that wins in the mean alone, by a single category.
        rows += [row(name, "pixel_auroc", value + (0.5 if name == "c00" else -0.01), "low")]
        rows += [row(name, "pixel_auroc", value, d) for d in ("top", "mid")]
        rows += [row(name, "false_negatives", n, d, "nominal_threshold") for d, n in (("top", 9), ("low", 1))]
        rows += [row(name, "false_negatives", 9, "mid", "nominal_threshold")]
    rows += [row("c00", "image_auroc", 0.999, "late")]  # of one category
    pages = {several: render_index(replace(report, board=build(rows, {}, unseeded=several))) for several in ((), LANES)}
    assert "best" not in re.findall(r'class="([^"]*)"', pages[()])  # with another seed it could be otherwise
    text = pages[LANES]
    bold = re.findall(r'<td class="[^"]*best[^"]*"[^>]*data-lane="([^"]*)"[^>]*>([^<]*)', text)
    top = np.mean([r["value"] for r in rows if (r["detector"], r["metric"]) == ("top", "image_auroc")])
    assert bold == [("top", f"{100 * top:.1f}"), ("low", "12")]
    assert "late 99.9 1 of 12" in Page(text).words("results")


def test_same_input_same_report(report):
    assert render_index(report) == render_index(report)


def test_a_bare_leaderboard_is_enough():
    rows = build([row("bottle", "image_auroc", 0.98)], {})
    page = Page(render_index(IndexPage("demo", "today", "demo.yaml", "cpu", rows)))
    assert "pc 98.0" in page.words("results")
    assert "paper" not in page.words("results")
    assert "oracle" not in page.text
    assert "speed" not in page.text
    with pytest.raises(ValueError, match="no leaderboard rows: build the leaderboard first"):
        render_index(IndexPage("demo", "today", "demo.yaml", "cpu", rows[:0]))
