"""Parquet tables with a checksum: whatever is damaged counts as absent, and nothing else does."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ad_assets.store.store import ArtifactStore
from ad_assets.store.tables import recall_table, write_table

TABLE = pa.table({"path": ["a", "ä ö"], "size": pa.array([1, None], pa.int64()), "gap": [0.1, 1e-300]})
PATH = "known_files/x/bolt.parquet"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(root=str(tmp_path))


@pytest.mark.parametrize("table", [TABLE, TABLE.slice(0, 0), pa.table({"name": ["0" * 32] * 3})])
def test_a_table_is_read_as_it_was_written_by_any_reader(store: ArtifactStore, table: pa.Table) -> None:
    write_table(store, PATH, table)
    assert recall_table(store, PATH) == table
    assert parquet.ParquetFile(store.local_path(PATH)).read().replace_schema_metadata(None) == table
    assert recall_table(store, "known_files/x/nut.parquet") is None


def test_every_damaged_byte_is_noticed(store: ArtifactStore) -> None:
    write_table(store, PATH, TABLE)
    file = store.local_path(PATH)
    data = file.read_bytes()
    for place in range(len(data)):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        assert recall_table(store, PATH) is None, place
    for length in (0, 1, 100, len(data) - 1):
        file.write_bytes(data[:length])
        assert recall_table(store, PATH) is None


def test_a_copy_of_another_table_and_one_without_a_checksum_are_damaged(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    write_table(store, PATH, TABLE)
    store.write_bytes("known_files/x/nut.parquet", store.fetch(PATH))
    assert recall_table(store, "known_files/x/nut.parquet") is None
    assert "nut.parquet is damaged (its checksum does not match)" in caplog.text
    parquet.write_table(TABLE, store.local_path(PATH))
    assert recall_table(store, PATH) is None
