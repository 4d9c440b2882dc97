"""Blind settings as datasets: which images, and that no label goes with them."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ad_assets.datasets import READERS, build_index
from ad_assets.datasets.readers.blind import BlindReader
from ad_assets.datasets.readers.folder import FolderReader
from ad_assets.datasets.readers.mvtec_ad import MvtecAdReader
from tests.support.trees import mvtec_tree


@pytest.mark.parametrize("setting", ["mix", "test", "ano"])
def test_each_setting_has_its_images_twice_and_unlabelled(tmp_path: Path, setting: str) -> None:
    mvtec_tree(tmp_path, "bolt")
    labelled = FolderReader(root=str(tmp_path))
    rows = build_index(labelled, "bolt").table.to_pylist()
    wanted = [
        row for row in rows if setting == "mix" or (row["split"] == "test" and (setting == "test" or row["label"] == 1))
    ]
    blind = build_index(BlindReader(of=labelled, setting=setting), "bolt").table.to_pylist()
    train, test = ([row for row in blind if row["split"] == split] for split in ("train", "test"))
    assert {row["image_id"] for row in train} == {row["image_id"] for row in wanted}
    assert {(row["label"], row["defect_type"], len(row["mask_paths"])) for row in train} == {(None, "", 0)}
    told = ("image_id", "path", "label", "defect_type", "mask_id")
    assert sorted(tuple(row[key] for key in told) for row in test) == sorted(
        tuple(row[key] for key in told) for row in wanted
    )


def test_it_is_the_other_dataset_and_its_setting(tmp_path: Path) -> None:
    labelled = FolderReader(root=str(tmp_path))
    one, other = (BlindReader(of=labelled, setting=setting) for setting in ("mix", "test"))
    assert one.root == labelled.root
    assert one.index_config() != other.index_config()
    elsewhere = BlindReader(of=FolderReader(root="/elsewhere"), setting="mix")
    assert one.index_config() == elsewhere.index_config()
    assert BlindReader(of=labelled).compared_with is None
    mvtec = MvtecAdReader(root="/x")
    assert [BlindReader(of=mvtec, setting=s).compared_with for s in ("mix", "test", "ano")] == [
        "MVTec-Mix",
        "MVTec-Test",
        "MVTec-Ano",
    ]
    assert READERS["blind"].blind
    with pytest.raises(ValidationError):
        BlindReader(of=labelled, setting="some")
