"""What is read after the index must be what was indexed, or is refused."""

import pytest

from ad_assets.datasets import ChangedFileError, ImageFiles, build_index, read_image_bytes, read_mask_bytes
from ad_assets.datasets.readers.folder import FolderReader
from ad_assets_runtime.images import ImageError
from tests.support.trees import mvtec_tree


@pytest.fixture
def indexed(tmp_path):
    folder = mvtec_tree(tmp_path)
    rows = build_index(FolderReader(root=str(tmp_path)), "bottle").table.to_pylist()
    return folder, ImageFiles(str(tmp_path)), {row["path"]: row for row in rows}


def test_files_that_are_as_indexed_are_read(indexed):
    folder, files, rows = indexed
    for row in rows.values():
        assert read_image_bytes(files, row) == (folder.parent / row["path"]).read_bytes()
        assert read_mask_bytes(files, row) == [(folder.parent / path).read_bytes() for path in row["mask_paths"]]


def test_a_file_that_changed_or_went_is_named_with_the_remedy(indexed):
    folder, files, rows = indexed
    row = rows["bottle/test/crack/000.png"]
    image, mask = folder / "test/crack/000.png", folder / "ground_truth/crack/000_mask.png"
    image.write_bytes(image.read_bytes() + b"1")  # after the picture's end: it decodes as before
    with pytest.raises(ChangedFileError, match=r"^bottle/test/crack/000\.png: changed since.*index it again") as told:
        read_image_bytes(files, row)
    assert isinstance(told.value, ImageError)  # whoever tells of broken images tells of this
    mask.write_bytes((folder / "ground_truth/dirt/001_mask.png").read_bytes() + b"1")
    with pytest.raises(ChangedFileError, match=r"000_mask\.png: changed since it was indexed: sha256"):
        read_mask_bytes(files, row)
    image.unlink()
    with pytest.raises(ChangedFileError, match=r"000\.png: is gone since it was indexed: put it back, or index it"):
        read_image_bytes(files, row)


def test_any_of_several_masks_tells(indexed):
    folder, files, rows = indexed
    names = [f"bottle/ground_truth/{name}" for name in ("crack/000_mask.png", "dirt/000_mask.png")]
    (folder / "ground_truth/dirt/000_mask.png").write_bytes(b"other")
    row = {**rows["bottle/test/crack/000.png"], "mask_paths": names}
    with pytest.raises(ChangedFileError, match=r"changed since it was indexed \(or one of the 2 masks of its image\)"):
        read_mask_bytes(files, row)
