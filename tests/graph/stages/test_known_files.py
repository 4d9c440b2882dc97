"""What is known of the files of a category, as it is kept between scans."""

from pathlib import Path

import pyarrow as pa
import pytest

from ad_assets.datasets import KnownFile
from ad_assets.graph.stages.known_files import files_path, read_known_files, write_known_files
from ad_assets.store.records import write_record
from ad_assets.store.store import ArtifactStore
from ad_assets.store.tables import recall_table, write_table

FILES = {
    "bolt/train/good/0.png": KnownFile(
        9, "1-2-3", "a" * 64, 4, 5, "RGB", "turn=True ", brightness=0.1, thumbnail="AA=="
    ),
    "bolt/ä.png": KnownFile(
        9, "", "b" * 64, 4, 5, "I;16", largest=4095, told_depth=12, orientation=6, frames=2, gap=0.25
    ),
    "bolt/ground_truth/0.png": KnownFile(7, "s", "c" * 64, 4, 5, "L", area=0, value=255, ignored=3, look_depth=12),
}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(root=str(tmp_path))


@pytest.mark.parametrize("files", [FILES, {}])
def test_it_is_read_as_it_was_written(store: ArtifactStore, files: dict[str, KnownFile]) -> None:
    write_known_files(store, "/images", "bolt", files)
    assert read_known_files(store, "/images", "bolt") == files
    assert list(map(type, sum(read_known_files(store, "/images", "bolt").values(), ()))) == list(
        map(type, sum(files.values(), ()))
    )
    assert read_known_files(store, "/others", "bolt") == read_known_files(store, "/images", "nut") == {}


def test_the_record_of_an_earlier_release_is_read_and_replaced(store: ArtifactStore) -> None:
    earlier = files_path("/images", "bolt").replace(".parquet", ".json")
    entries = {path: file._asdict() for path, file in FILES.items()}
    del entries["bolt/ä.png"]["look_depth"]  # as of a release that had none
    write_record(store, earlier, entries)
    assert read_known_files(store, "/images", "bolt") == FILES
    write_known_files(store, "/images", "bolt", FILES)
    assert [file.path for file in store.files("known_files")] == [files_path("/images", "bolt")]
    assert read_known_files(store, "/images", "bolt") == FILES


def test_a_column_that_an_earlier_release_lacks_has_its_default(store: ArtifactStore) -> None:
    write_known_files(store, "/images", "bolt", FILES)
    table = recall_table(store, files_path("/images", "bolt"))
    assert isinstance(table, pa.Table)
    write_table(store, files_path("/images", "bolt"), table.drop_columns(["frames", "rule"]))
    assert read_known_files(store, "/images", "bolt") == {
        path: file._replace(frames=1, rule="") for path, file in FILES.items()
    }
