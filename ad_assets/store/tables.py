"""Tables that are no part of an artifact, and can be made again: Parquet with a checksum of the whole file.

The checksum covers the path too, as that of a record does, and lies in the metadata of the file's footer, where any
Parquet reader passes over it. A damaged table counts as absent, with a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ad_assets.store.checksums import KEY, CorruptArtifactError, plain_checksum
from ad_assets.store.records import warn

if TYPE_CHECKING:
    import pyarrow as pa

    from ad_assets.store.store import ArtifactStore

_UNKNOWN = b"0" * 32


def write_table(store: ArtifactStore, path: str, table: pa.Table) -> None:
    """Write a table in one step; metadata of its schema are not kept."""
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    with parquet.ParquetWriter(sink, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY: _UNKNOWN})
    data = sink.getvalue().to_pybytes()
    start = data.rindex(_UNKNOWN)
    store.write_bytes(path, data[:start] + plain_checksum(path, data).encode() + data[start + len(_UNKNOWN) :])


def read_table(store: ArtifactStore, path: str) -> pa.Table:
    """The table at a path.

    Raises:
        FileNotFoundError: there is none.
        CorruptArtifactError: it is damaged, or was written for another path.
    """
    import pyarrow as pa
    from pyarrow import parquet

    data = store.fetch(path)
    try:
        file = parquet.ParquetFile(pa.BufferReader(data))
        stated = (file.metadata.metadata or {}).get(KEY.encode(), b"")
        start = data.rfind(stated) if len(stated) == len(_UNKNOWN) else -1
        if start < 0 or plain_checksum(path, data[:start] + _UNKNOWN + data[start + len(stated) :]).encode() != stated:
            raise store.corrupt(path, "its checksum does not match")
        return file.read().replace_schema_metadata(None)
    except CorruptArtifactError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # of bytes at hand: no disk is to blame
        raise store.corrupt(path, error if data else "it is empty") from error


def recall_table(store: ArtifactStore, path: str) -> pa.Table | None:
    """The table at a path; None where there is none, or with a logged warning where it is damaged."""
    try:
        return read_table(store, path)
    except FileNotFoundError:
        return None
    except CorruptArtifactError as error:
        warn(error)
        return None
