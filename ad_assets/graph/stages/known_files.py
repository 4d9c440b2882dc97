"""What the scans of a folder found out about its files, so that what has not changed is not opened again.

A table a category, for every dataset that reads the same folder. Stores of earlier releases have a JSON record, which
is read and replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ad_assets.config.benchmark import fingerprint
from ad_assets.datasets import KnownFile
from ad_assets.store.records import recall
from ad_assets.store.store import ArtifactStore
from ad_assets.store.tables import recall_table, write_table

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 3  # in the path: another one begins anew


def files_path(root: str, category: str) -> str:
    """Path of the table of a category of a folder."""
    return f"known_files/{fingerprint([FORMAT, root])}/{category}.parquet"


def read_known_files(store: ArtifactStore, root: str, category: str) -> dict[str, KnownFile]:
    """Path -> what the last scan found out; empty where there was none, or its table is damaged."""
    table = recall_table(store, files_path(root, category))
    if table is None:
        earlier = recall(store, _earlier_path(root, category)) or {}
        return {path: KnownFile(**entry) for path, entry in earlier.items()}
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    defaults = KnownFile._field_defaults
    # By position: of a hundred thousand files, and a column that an earlier release lacks has its default.
    values = (columns.get(name, [defaults.get(name)] * len(table)) for name in KnownFile._fields)
    return dict(zip(columns["path"], map(KnownFile._make, zip(*values, strict=True)), strict=True))


def write_known_files(store: ArtifactStore, root: str, category: str, files: Mapping[str, KnownFile]) -> None:
    """Replace what is known of the files of a category."""
    write_table(store, files_path(root, category), _table(files))
    store.delete([_earlier_path(root, category)])


def _table(files: Mapping[str, KnownFile]) -> pa.Table:
    import pyarrow as pa

    types = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    columns = list(zip(*files.values(), strict=True)) or [()] * len(KnownFile._fields)
    arrays = [pa.array(column, types[kind]) for column, kind in zip(columns, KnownFile.column_types(), strict=True)]
    return pa.table([pa.array(files, pa.string()), *arrays], names=["path", *KnownFile._fields])


def _earlier_path(root: str, category: str) -> str:
    return files_path(root, category).removesuffix(".parquet") + ".json"
