"""Lasting records: small JSON files of decisions and their results, which cannot be computed again.

They have no checksum, since people may edit them. They are validated when read: an invalid record is an error that
names it and never counts as absent. They are changed by compare and swap, since several people and runs may change them
at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from ad_assets.store.compare_and_swap import Seen
from ad_assets.store.store import ArtifactStore, CorruptArtifactError

T = TypeVar("T")


class DamagedRecordError(CorruptArtifactError):
    """A record cannot be read; the message names the file, the fault and the remedy."""


class LastingRecord(Generic[T]):
    """One kind of lasting record.

    Args:
        kind: type of its value that pydantic can validate, such as a dataclass.
        empty: makes the value of a record that does not exist yet.
        holds: description of its content for messages.
    """

    def __init__(self, kind: Any, empty: Callable[[], T], holds: str) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        self._empty, self._holds = empty, holds

    def read(self, store: ArtifactStore, path: str) -> T:
        """The value of a record.

        Raises:
            DamagedRecordError: it cannot be read.
        """
        try:
            data = store.read_bytes(path)
        except FileNotFoundError:
            return self._empty()
        return self._parsed(store, path, data)

    def update(self, store: ArtifactStore, path: str, change: Callable[[T], T], *, seen: Seen | None = None) -> T:
        """Change a record atomically: of simultaneous changes none is lost.

        Args:
            store: the store.
            path: of the record.
            change: maps the value to the new one; called again if another process wrote meanwhile.
            seen: see `FileStore.update`.

        Returns:
            The new value.

        Raises:
            DamagedRecordError: it cannot be read; it is not changed.
        """
        after = self._empty()

        def changed(data: bytes | None) -> bytes:
            nonlocal after
            before = self._empty() if data is None else self._parsed(store, path, data)
            after = change(before)
            return data if data is not None and after == before else self._text(after)

        store.update(path, changed, seen=seen)
        return after

    def _parsed(self, store: ArtifactStore, path: str, data: bytes) -> T:
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise DamagedRecordError(
                f"{store.location(path)} cannot be read ({f'{field}: ' if field else ''}{first['msg']}). It holds "
                f"{self._holds}: restore it from a backup, or repair it by hand; nothing runs without it"
            ) from error

    def _text(self, value: T) -> bytes:
        tree = self._adapter.dump_python(value, mode="json")
        text = json.dumps(tree, indent=1, sort_keys=True, allow_nan=False).encode()
        self._adapter.validate_json(text)  # never write a record that could not be read again
        return text
