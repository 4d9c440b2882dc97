"""The numbered tables: complete, with numbers as printed, and with names that the shipped benchmark files have."""

import pytest

from ad_assets.papers import published as papers
from ad_assets.papers.numbered_tables import (
    KINDS,
    Counts,
    Detectors,
    Images,
    StudyPart,
    Systems,
    numbered_table,
    numbered_tables,
    parse,
)
from tests.support.shipped import shipped

EXPECTED = {
    "hetmm": [*map(str, range(1, 13)), "fig6", "fig8", "fig9", "fig10"],
    "simplenet": [*map(str, range(1, 6)), "fig2", "fig4", "fig5", "fig6", "fig7"],
    "fod": [*map(str, range(1, 16)), "fig5"],
    "patchcore": [
        *map(str, range(1, 7)),
        *(f"s{number}" for number in range(1, 7)),
        *("fig4", "fig5", "fig6", "figs3", "figs4", "figs5", "figs6"),
    ],
    "patchcluster": [*map(str, range(1, 8))],
}
QUALITY = {"image_auroc", "pixel_auroc", "aupro_0.30"}
COSTS = {"images_per_second", "seconds_per_image", "gmacs_per_image", "million_parameters", "seconds_per_epoch"}
CURVES = {"roc", "pr", "pro", "image_roc", "image_pr", "loss"}
PARTS = [(name, part) for name, table in numbered_tables().items() for part in table.parts]


def test_every_table_of_every_paper_has_an_entry_in_the_paper_s_order():
    found: dict[str, list[str]] = {}
    for name, table in numbered_tables().items():
        paper, _, number = name.partition("/")
        assert table.paper == paper
        assert table.title
        found.setdefault(paper, []).append(number)
    assert found == EXPECTED


def test_little_is_missing_and_says_why():
    missing = {name: table.missing for name, table in numbered_tables().items() if not table.parts}
    assert set(missing) == {"simplenet/fig4"}
    assert all(reason.endswith(".") for reason in missing.values())


@pytest.mark.parametrize("name", sorted({part.benchmark for _, part in PARTS}))
def test_a_benchmark_has_all_that_tables_name(name):
    benchmark = shipped(name)
    for table, part in PARTS:
        if part.benchmark != name:
            continue
        dataset = benchmark.datasets[part.dataset]
        match part:
            case Systems(systems=systems) | Counts(systems=systems):
                detectors = set(systems.values()) - {None}
            case Detectors(rows=rows):
                detectors = {row.detector for row in rows.values()} - {None}
            case StudyPart(study=study, rows=rows):
                detectors = set()
                variants = {variant.name for variant in dataset.studies[study].variants}
                assert {row.variant for row in rows.values()} - {None} <= variants, table
            case Images():
                detectors = set()
        assert detectors <= set(dataset.detectors), table


def test_every_system_has_numbers_for_the_dataset_and_some_metric():
    for table, part in PARTS:
        match part:
            case Systems():
                assert set(part.metrics) <= QUALITY
                wanted = {*KINDS, "mean"} if part.by == "kind" else {"mean"}
                for system in part.systems:
                    numbers = papers.published(system, part.paper_dataset)
                    assert set(part.metrics) & set(numbers), (table, system)
                    for metric in set(part.metrics) & set(numbers):
                        assert wanted <= set(numbers[metric]), (table, system)
            case Counts():
                for system in part.systems:
                    counted = papers.counts(system, part.paper_dataset)
                    assert counted, (table, system)
                    assert set(counted) <= set(part.metrics), (table, system)


def test_inline_numbers_are_under_the_part_s_metrics():
    for table, part in PARTS:
        rows = part.rows.values() if isinstance(part, StudyPart | Detectors) else ()
        for row in rows:
            known = set(part.metrics)
            if isinstance(part, StudyPart) and part.by == "kind":
                known = {*KINDS, "mean"}
            assert set(row.paper) <= known, table
            assert all(metric not in QUALITY or 10 < value <= 100 for metric, value in row.paper.items()), table
        allowed = {"speed": COSTS, "curves": CURVES, "study": QUALITY | {"images_per_second"}}.get(part.kind)
        assert allowed is None or set(part.metrics) <= allowed, table


def printed(table: str, row: str, part: int = 0) -> dict[str, float]:
    found = numbered_table(table).parts[part]
    assert isinstance(found, StudyPart | Detectors)
    return found.rows[row].paper


def test_numbers_are_those_of_the_papers():
    assert printed("hetmm/12", "60") == {
        "images_per_second": 26.1,
        "image_auroc": 99.0,
        "pixel_auroc": 98.1,
        "aupro_0.30": 95.1,
    }
    assert printed("hetmm/9", "backward HETM") == {"structural": 82.5, "logical": 82.7, "mean": 82.6}
    assert printed("hetmm/10", "ResNeXt50, 60 sheets")["pixel_auroc"] == 97.4
    assert printed("simplenet/2", "1+2") == {"image_auroc": 96.7, "pixel_auroc": 96.7}
    assert printed("simplenet/4", "ResNet18") == {"image_auroc": 98.3, "pixel_auroc": 95.7}
    assert printed("fod/4", "Inter, Coreset; Rec&Div", 1) == {"image_auroc": 88.4}  # BTAD
    assert printed("fod/9", "Intra; Div", 2) == {"pixel_auroc": 86.3}  # MVTec3D-RGB
    assert printed("fod/11", "10", 1) == {"image_auroc": 84.8, "pixel_auroc": 93.5}
    assert printed("fod/15", "prototype", 2) == {"image_auroc": 89.8, "pixel_auroc": 98.2}
    assert printed("fod/5", "FOD") == {
        "gmacs_per_image": 10.9,
        "million_parameters": 16.2,
        "seconds_per_epoch": 15,
        "images_per_second": 21.4,
    }
    assert printed("patchcore/5", "PatchCore-100 IVFPQ", 1) == {"seconds_per_image": 0.2}
    assert printed("patchcore/s6", "ResNet101, 1 %") == {"image_auroc": 98.7, "pixel_auroc": 97.8, "aupro_0.30": 92.2}
    assert printed("patchcore/fig5", "3", 1) == {"image_auroc": 96.8}
    assert printed("patchcluster/5", "50", 1) == {"image_auroc": 95.6, "pixel_auroc": 94.3, "aupro_0.30": 89.5}
    assert printed("patchcluster/7", "1 %", 2) == {"pixel_auroc": 85.8, "aupro_0.30": 68.5}
    few = numbered_table("patchcore/s5").parts[2]
    assert isinstance(few, StudyPart)
    assert few.rows["16"].paper["image_auroc"] == 95.4
    assert few.rows["16"].spread["image_auroc"] == 0.7
    ano = numbered_table("patchcluster/1").parts[2]
    assert isinstance(ano, Images)
    assert ano.paper["anomalous_pixel_percent"] == 4.7


def test_numbers_of_systems_are_those_of_the_papers():
    assert papers.counts("PatchCore-25", "mvtec_ad") == {
        "misclassified": 42,
        "false_positives": 19,
        "false_negatives": 23,
    }
    assert papers.counts("PatchCore-1", "MVTec AD") == {"misclassified": 49}
    assert papers.counts("FOD", "BTAD") == {}
    assert papers.published("RDAD [quoted in FOD paper]", "MVTec AD")["pixel_auroc"] == {"mean": 0.978}
    assert papers.published("PatchCore-100 IVFPQ", "MVTec AD")["aupro_0.30"] == {"mean": 0.93}
    assert papers.published("SPADE [re-run in PatchCore paper]", "MVTec AD")["image_auroc"] == {"mean": 0.853}


def test_a_figure_that_draws_a_table_has_its_parts():
    assert numbered_table("patchcore/fig6").parts == numbered_table("patchcore/s5").parts
    assert numbered_table("FOD/Fig5").benchmarks == ["mvtec_ad_trained_studies"]


def test_wrong_entries_and_unknown_ids_are_named():
    with pytest.raises(ValueError, match=r"hetmm/4: .*exactly one of parts, same_as and missing"):
        parse({"hetmm/4": {"title": "MTD"}})
    part = {"kind": "study", "benchmark": "mtd", "dataset": "mtd", "study": "s", "metrics": ["image_auroc"]}
    with pytest.raises(ValueError, match=r"hetmm/4: parts\.0\.study\.variants: Extra inputs"):
        parse({"hetmm/4": {"title": "MTD", "parts": [{**part, "variants": []}]}})
    with pytest.raises(ValueError, match=r"hetmm/4: parts\.0\.study\.by: Input should be 'mean', 'category' or 'kind'"):
        parse({"hetmm/4": {"title": "MTD", "parts": [{**part, "by": "defect_type"}]}})
    with pytest.raises(ValueError, match=r"spade/1: paper: Input should be 'hetmm'"):
        parse({"spade/1": {"title": "x", "missing": "Y."}})
    with pytest.raises(ValueError, match=r"fod/fig5: same_as: 'fod/99' is no table"):
        parse({"fod/fig5": {"title": "x", "same_as": "fod/99"}})
    with pytest.raises(ValueError, match=r"no numbered table 'hetmm/13'; known: hetmm/1, hetmm/2"):
        numbered_table("hetmm/13")
    with pytest.raises(ValueError, match=r"no numbered table 'hetm/4'; known: hetmm/4"):
        numbered_table("hetm/4")
