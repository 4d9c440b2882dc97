"""Numbered tables from synthetic rows: every kind of part, what is compared with what, and the three formats."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ad_assets.papers.numbered_tables import Counts, Detectors, Images, StudyPart, Systems, numbered_table
from ad_assets.report.numbered.blocks import blocks
from ad_assets.report.numbered.cells import Block, Cell, Measured, joined
from ad_assets.report.numbered.curves import curve_blocks, plot
from ad_assets.report.numbered.text import Page, cell_text, page_rows, render

PLACE = {"benchmark": "b", "dataset": "d"}
SYSTEMS = {"PatchCore-10": "ours", "DifferNet [quoted in PatchCore paper]": None}
THREE = ("bottle", "cable", "capsule")


def row(
    category: str, metric: str, value: float | None, detector: str = "ours", protocol: str = "standard", draw: int = 0
) -> Any:
    return {
        "category": category,
        "detector": detector,
        "draw": draw,
        "protocol": protocol,
        "metric": metric,
        "value": value,
        "n": 10,
    }


def texts(block: Block) -> dict[str, list[str]]:
    return {name: [cell_text(cell) for cell in cells] for name, cells in block.lines}


def systems(**changes: Any) -> Systems:
    known = {"kind": "systems", **PLACE, "metrics": ["image_auroc"], "paper_dataset": "MVTec AD", "systems": SYSTEMS}
    return Systems.model_validate({**known, **changes})


def test_systems_by_category_and_the_mean_over_the_same_ones():
    rows = [row("bottle", "image_auroc", 0.99), row("cable", "image_auroc", 0.985), row("capsule", "image_auroc", None)]
    (block,) = blocks(systems(by="category"), Measured(rows, THREE, THREE))
    assert block.columns == ("PatchCore-10", "DifferNet")
    found = texts(block)
    assert found["bottle"] == ["99.0 (100.0, -1.0)", "(99.0)"]
    assert found["capsule"][0] == "– (97.8)"
    paper = (100.0 + 99.4) / 2  # over bottle and cable, as ours
    assert found["mean"][0] == f"98.8* ({paper:.1f}, {98.75 - paper:+.1f})"
    page = render(Page("patchcore/s1", "title", (block,)))
    assert "*: over a part of the categories (2 of them), and the paper's with a difference over the same ones" in page


def test_a_lane_with_draws_is_their_mean_with_its_spread():
    seeds = {0: (0.96, 0.90), 1: (0.94, 0.94), 2: (0.95, 0.95)}
    rows = [
        row(category, "image_auroc", value, draw=draw)
        for draw, values in seeds.items()
        for category, value in zip(THREE, values, strict=False)
    ]
    (block,) = blocks(systems(), Measured(rows, THREE[:2], THREE[:2]))
    own = np.array(list(seeds.values())).mean(axis=1)  # of the mean over categories, not the mean of their spreads
    assert texts(block)["PatchCore-10"][0].startswith(f"{100 * own.mean():.1f} ±{100 * own.std(ddof=1):.1f} (")
    page = Page("patchcore/s1", "title", (block,))
    assert "±: sample standard deviation over draws" in render(page)
    (ours, _) = page_rows(page)
    assert ours["spread"] == pytest.approx(100 * own.std(ddof=1))
    counts = Counts.model_validate(
        {"kind": "counts", **PLACE, "metrics": ["misclassified"], "paper_dataset": "MVTec AD", "systems": SYSTEMS}
    )
    rows = [
        row(category, f"false_{name}", number, protocol="oracle_f1", draw=draw)
        for draw, numbers in enumerate([(1, 2), (3, 6)])
        for name, number in zip(("positives", "negatives"), numbers, strict=True)
        for category in THREE
    ]
    (block,) = blocks(counts, Measured(rows, THREE, THREE))
    assert texts(block)["PatchCore-10"][0].startswith("18 ±13 ")  # 9 and 27, summed over categories


def test_a_mean_over_a_part_is_not_compared_with_a_mean_over_all():
    rows = [row("magnetic_tile", "image_auroc", 0.9)]
    part = systems(systems={"GANomaly [quoted in PatchCore paper]": "ours"}, paper_dataset="MTD")
    (block,) = blocks(part, Measured(rows, ("magnetic_tile",), ("magnetic_tile",)))
    assert texts(block)["GANomaly"] == ["90.0 (76.6, +13.4)"]
    (block,) = blocks(part, Measured(rows, ("magnetic_tile", "another"), ("magnetic_tile",)))
    assert texts(block)["GANomaly"] == ["90.0* (76.6)"]
    (block,) = blocks(part, Measured(rows, ("magnetic_tile",), ("magnetic_tile",), same_data=False))
    assert texts(block)["GANomaly"] == ["90.0 (76.6)"]
    (block,) = blocks(part, Measured([], ("magnetic_tile",), ("magnetic_tile",)))
    assert texts(block)["GANomaly"] == ["– (76.6)"]


def test_what_looked_at_test_labels_stands_beside_what_did_not():
    part = systems(systems={"SimpleNet": "ours", "DRAEM [quoted in SimpleNet paper]": None})
    part = part.model_copy(update={"protocol": "oracle_best_epoch"})
    rows = [row("bottle", "image_auroc", 0.9), row("bottle", "image_auroc", 0.99, protocol="oracle_best_epoch")]
    (block,) = blocks(part, Measured(rows, ("bottle",), ("bottle",)))
    found = texts(block)
    assert list(found) == ["SimpleNet, best epoch (oracle)", "SimpleNet, last epoch", "DRAEM"]
    assert found["SimpleNet, best epoch (oracle)"][0].startswith("99.0 (100.0, ")  # bottle's, as ours is bottle's
    assert found["SimpleNet, last epoch"] == ["90.0"]
    (block,) = blocks(part, Measured(rows[:1], ("bottle",), ("bottle",)))
    assert list(texts(block)) == ["SimpleNet", "DRAEM"]


def test_kinds_of_anomalies():
    table = numbered_table("hetmm/7").parts[0]
    kinds = {"structural": 0.86, "logical": 0.8, "kinds": 0.83}
    rows = [row("box", f"image_auroc_{kind}", value, "hetmm_all") for kind, value in kinds.items()]
    (block,) = blocks(table, Measured(rows, ("box",), ("box",)))
    assert block.columns == ("structural", "logical", "mean")
    assert texts(block)["HETMM-ALL"] == ["86.0 (85.8, +0.2)", "80.0 (82.4, -2.4)", "83.0 (84.1, -1.1)"]
    assert texts(block)["GCAD"] == ["(80.6)", "(86.0)", "(83.3)"]
    study = numbered_table("hetmm/9").parts[0]
    rows = [study_row("box", "mutual", f"image_auroc_{kind}", value) for kind, value in kinds.items()]
    (block,) = blocks(study, Measured(rows, ("box",), ("box",)))
    assert texts(block)["HETMM"] == ["86.0 (85.8, +0.2)", "80.0 (82.4, -2.4)", "83.0 (84.1, -1.1)"]
    assert texts(block)["forward HETM"] == ["– (86.0)", "– (79.7)", "– (82.9)"]


def test_counts_are_sums_and_compared_over_all_categories_alone():
    known = {"kind": "counts", **PLACE, "metrics": ["misclassified", "false_positives"], "paper_dataset": "MVTec AD"}
    part = Counts.model_validate({**known, "systems": {"PatchCore-25": "ours", "PatchCore-1": None}})
    rows = [
        row(category, metric, value, protocol="oracle_f1")
        for category, errors in (("bottle", (3, 1)), ("cable", (20, 10)))
        for metric, value in zip(("false_positives", "false_negatives"), errors, strict=True)
    ]
    (block,) = blocks(part, Measured(rows, ("bottle", "cable"), ("bottle", "cable")))
    assert texts(block) == {"PatchCore-25": ["34 (42, -8)", "23 (19, +4)"], "PatchCore-1": ["(49)", ""]}
    (block,) = blocks(part, Measured(rows, THREE, THREE))
    assert texts(block)["PatchCore-25"] == ["34* (42)", "23* (19)"]


def study_row(category: str, variant: str, metric: str, value: float, draw: int = 0) -> dict[str, Any]:
    place = {"category": category, "variant": variant, "draw": draw, "defect_type": ""}
    return {**place, "metric": metric, "value": value}


def test_studies_have_spreads_and_stand_alone_without_printed_numbers():
    part = StudyPart.model_validate(
        {
            "kind": "study",
            **PLACE,
            "study": "s",
            "metrics": ["image_auroc", "images_per_second"],
            "rows": {
                "1": {"variant": "n=1", "paper": {"image_auroc": 71.6}, "spread": {"image_auroc": 0.7}},
                "none": {"variant": None, "paper": {"image_auroc": 50}},
            },
        }
    )
    rows = [study_row("a", "n=1", "image_auroc", value, draw) for draw, value in enumerate((0.7, 0.74))]
    rows.append(study_row("a", "n=1", "images_per_second", 1234.5))
    measured = Measured(rows, ("a",), ("a",), variants=("n=1", "n=2"))
    (block,) = blocks(part, measured)
    assert texts(block) == {"1": ["72.0 ±2.8 (71.6 ±0.7, +0.4)", "1234"], "none": ["(50.0)", ""]}
    (block,) = blocks(part.model_copy(update={"rows": {}}), measured)
    assert texts(block) == {"n=1": ["72.0 ±2.8", "1234"], "n=2": ["–", "–"]}
    apart = blocks(part.model_copy(update={"rows": {}, "by": "category"}), measured)
    assert [block.title for block in apart] == ["image AUROC, %", "images/s with backbone"]
    assert texts(apart[0]) == {"a": ["72.0 ±2.8", "–"], "mean": ["72.0 ±2.8", "–"]}


def test_speed_is_that_of_all_images_with_the_backbone():
    part = Detectors.model_validate(
        {
            "kind": "speed",
            **PLACE,
            "metrics": ["images_per_second", "seconds_per_image", "million_parameters"],
            "rows": {"FOD": {"detector": "ours", "paper": {"images_per_second": 21.4}}, "MKD": {"detector": None}},
        }
    )
    rows = [row("a", "features_images_per_second", 10, protocol="timing")]
    rows.append(row("a", "score_images_per_second", 40, protocol="timing"))
    rows.append(row("a", "parameters", 14_200_000, protocol="training"))
    (block,) = blocks(part, Measured(rows, ("a",), ("a",)))
    assert texts(block) == {"FOD": ["8 (21.4, -13.4)", "0.125", "14.2"], "MKD": ["", "", ""]}


def test_images_of_settings_are_lines_of_one_block():
    parts = [part for part in numbered_table("patchcluster/1").parts if isinstance(part, Images)]
    own = {"nominal_images": 270, "anomalous_images": 80, "nominal_image_percent": 77.1, "anomalous_pixel_percent": 1.0}
    measured = Measured([{"category": "bottle", **own}], ("bottle",), ("bottle",))
    (block,) = joined(block for part in parts for block in blocks(part, measured))
    assert list(texts(block)) == ["Mix", "Test", "Ano"]
    assert texts(block)["Mix"] == ["270 (273, -3)", "80 (83, -3)", "77.1 (77.0, +0.1)", "1.0 (1.1, -0.1)"]


def curves_part(*metrics: str) -> Detectors:
    rows = {"PatchCore": {"detector": "ours"}, "P-SVDD": {"detector": None}}
    return Detectors.model_validate({"kind": "curves", **PLACE, "metrics": metrics, "rows": rows})


def test_curves_are_means_at_sampled_places_and_a_picture():
    diagonal, step = [[0.0, 1.0], [0.0, 1.0]], [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    curves = {"ours": {("a", 0): {"roc": diagonal, "pro": diagonal}, ("b", 0): {"roc": step, "pro": step}}}
    rows = [row("a", "pixel_auroc", 0.5), row("b", "pixel_auroc", 1.0)]
    measured = Measured(rows, ("a", "b"), ("a", "b"), curves=curves)
    roc, pro = curve_blocks(curves_part("roc", "pro"), measured)
    assert dict(zip(roc.columns, texts(roc)["PatchCore"], strict=True))["area"] == "75.0"
    assert dict(zip(roc.columns, texts(roc)["PatchCore"], strict=True))["at 0.5"] == "75.0"
    assert pro.columns[-1] == "at 0.3"
    assert set(texts(pro)["P-SVDD"]) == {""}
    again = {"ours": {**curves["ours"], ("a", 1): {"roc": step}, ("b", 1): {"roc": step}}}
    drawn = replace(measured, rows=[*rows, *(row(name, "pixel_auroc", 1.0, draw=1) for name in "ab")], curves=again)
    (roc,) = curve_blocks(curves_part("roc"), drawn)
    found = dict(zip(roc.columns, texts(roc)["PatchCore"], strict=True))
    assert (found["area"], found["at 0.5"]) == ("87.5 ±17.7", "87.5")
    assert plot("title", curves_part("roc", "pro"), measured).startswith(b"\x89PNG")


def test_losses_are_means_over_categories():
    curves = {"ours": {("a", 0): {"loss": {"total": [4.0, 2.0]}}, ("b", 0): {"loss": {"total": [2.0, 1.0]}}}}
    measured = Measured([], ("a", "b"), ("a", "b"), curves=curves)
    (block,) = curve_blocks(curves_part("loss"), measured)
    assert block.columns == ("epoch 1", "epoch 2")
    assert texts(block)["PatchCore"] == ["3", "1.5"]
    assert plot("title", curves_part("loss"), measured).startswith(b"\x89PNG")
    (block,) = curve_blocks(curves_part("loss"), Measured([], ("a",), ("a",)))
    assert block.columns == ()


def test_formats():
    block = Block("t", ("a|b", "c"), (("x", (Cell(99.14, 99.0), Cell(None, 50.0, lane=False))),), "corner")
    page = Page("hetmm/4", "title", (block,), ("note: n",))
    assert render(page) == (
        "hetmm/4: title\n\nt\n\ncorner                a|b       c\nx       99.1 (99.0, +0.1)  (50.0)\n\n"
        "ours (the paper's, difference); in brackets alone: as printed, no detector of ours\nnote: n"
    )
    marked = render(page, "markdown")
    assert "| corner | a\\|b | c |\n| --- | ---: | ---: |\n| x | 99.1 (99.0, +0.1) | (50.0) |" in marked
    assert marked.endswith("- note: n")
    assert render(page, "csv").splitlines()[1:] == ["hetmm/4,t,x,a|b,99.14,,99,0.14,", "hetmm/4,t,x,c,,,50,,"]


@pytest.mark.parametrize("columns", [1, 12])
def test_what_is_too_wide_goes_on_below(columns: int):
    cells = tuple(Cell(99.14, 99.0) for _ in range(columns))
    names = tuple(f"system {number}" for number in range(columns))
    text = render(Page("a/1", "title", (Block("t", names, (("bottle", cells),)),)), width=60)
    assert max(map(len, text.splitlines()[:-1])) <= 60
    assert text.count("bottle") == -(-columns // 2)
