"""The published numbers: right fractions, right names, and no silent disagreement with the printed means."""

import hashlib
import json

import pytest

from ad_assets.papers import published as papers


def test_numbers_are_fractions_under_our_names():
    patchcore = papers.published("PatchCore-10", "MVTec AD")
    assert set(patchcore) == {"image_auroc", "pixel_auroc", "aupro_0.30"}
    assert patchcore["image_auroc"]["mean"] == 0.99
    assert patchcore["image_auroc"]["screw"] == 0.97
    assert papers.published("HETMM-ALL", "MVTec AD")["aupro_0.30"]["tile"] == 0.885
    assert papers.published("FOD", "BTAD")["image_auroc"]["02"] == 0.864  # named as the folder on disk
    assert papers.published("PatchCore-10", "MTD") == {"image_auroc": {"mean": 0.979}}


def test_every_table_can_be_read():
    for system in papers.systems():
        assert papers.source(system)
        for dataset in papers.datasets(system):
            for metric, row in papers.published(system, dataset).items():
                assert metric in {"image_auroc", "pixel_auroc", "aupro_0.30"}
                assert row
                assert all(0.1 < value <= 1 for value in row.values()), (system, dataset, metric)
                assert set(row) - {"mean"} <= papers.categories(dataset)


def test_our_spelling_of_a_dataset_finds_it():
    assert papers.published("HETMM-ALL", "mvtec_ad") == papers.published("HETMM-ALL", "MVTec AD")
    assert papers.published("FOD", "mvtec3d_rgb") == papers.published("FOD", "MVTec3D-RGB")
    assert len(papers.categories("mvtec_ad")) == 15
    assert papers.categories("mtd") == set()


def test_a_printed_mean_that_its_categories_do_not_give_has_a_note():
    odd = []
    for system in papers.systems():
        for dataset in papers.datasets(system):
            for metric, row in papers.published(system, dataset).items():
                values = [100 * value for category, value in row.items() if category != "mean"]
                printed = 100 * row.get("mean", 0)
                if not values or not printed:
                    continue
                average = sum(values) / len(values)
                # Baselines are quoted with or without decimals; half a unit of the last digit is rounding.
                step = 0.5 if " [" in system and round(printed) == round(printed, 6) else 0.0501
                noted = any(
                    note.startswith(f"{metric}: ") and "average" in note for note in papers.notes(system, dataset)
                )
                if abs(average - printed) > step and not noted:
                    odd.append((system, dataset, metric, round(average, 3), printed))
    assert odd == []


def test_the_misprinted_transistor_is_corrected():
    row = papers.published("PaDiM [quoted in PatchCore paper]", "MVTec AD")["pixel_auroc"]
    categories = [value for category, value in row.items() if category != "mean"]
    assert row["transistor"] == 0.975
    assert sum(categories) / 15 == pytest.approx(row["mean"], abs=1e-4)
    assert papers.published("PaDiM [quoted in SimpleNet paper]", "MVTec AD")["pixel_auroc"]["transistor"] == 0.975


def test_notes_belong_to_their_table():
    tables = json.loads(papers.TABLES.read_text(encoding="utf-8"))
    for note in tables["notes"]:
        assert note["dataset"] in papers.datasets(note["system"])
        assert note.get("metric", "image_auroc") in {"image_auroc", "pixel_auroc", "aupro_0.30"}
    assert any("best image AUROC" in note for note in papers.notes("FOD", "btad"))
    assert papers.notes("PatchCluster-100", "MVTec AD") == []


def test_unknown_names_are_named_with_what_is_close():
    with pytest.raises(ValueError, match=r"PatchCore 10.*close names: .*PatchCore-10"):
        papers.published("PatchCore 10", "MVTec AD")
    with pytest.raises(ValueError, match="known: HETMM-ALL"):
        papers.published("%%%%", "MVTec AD")
    with pytest.raises(ValueError, match=r"SimpleNet has no published numbers for 'visa'.*MVTec AD"):
        papers.published("SimpleNet", "visa")


def test_fingerprint_is_the_files():
    assert papers.tables_fingerprint() == hashlib.sha256(papers.TABLES.read_bytes()).hexdigest()
