"""Lasting records: small JSON files of what was decided and what came of it, which nothing makes anew.

They carry no checksum, for people edit them. They are checked when they are read, for disks damage them too: what
cannot be read is refused by name, never taken for absent. They are changed by compare and swap, for several people and
runs change them at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from ad_assets.store.store import ArtifactStore, CorruptArtifactError

T = TypeVar("T")


class DamagedRecordError(CorruptArtifactError):
    """A record cannot be read; the message names it, what is wrong with it, and the remedy."""


class LastingRecord(Generic[T]):
    """One kind of lasting record.

    Args:
        kind: dataclass or other type of its value, for pydantic.
        empty: its value where there is none yet.
        holds: what it holds, for people.
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

    def update(self, store: ArtifactStore, path: str, change: Callable[[T], T]) -> T:
        """Change a record; none of several changes at once undoes another.

        Args:
            store: where it lies.
            path: of the record.
            change: from its value to the new one; called again on what another process has written meanwhile.

        Returns:
            The new value.

        Raises:
            DamagedRecordError: it cannot be read; it stays as it is.
        """
        after = self._empty()

        def changed(data: bytes | None) -> bytes:
            nonlocal after
            before = self._empty() if data is None else self._parsed(store, path, data)
            after = change(before)
            return data if data is not None and after == before else self._text(after)

        store.update(path, changed)
        return after

    def _parsed(self, store: ArtifactStore, path: str, data: bytes) -> T:
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise DamagedRecordError(
                f"{store.location(path)} cannot be read ({f'{place}: ' if place else ''}{first['msg']}). It holds "
                f"{self._holds}: put back a copy of it from a backup, or mend it by hand; nothing goes on without it"
            ) from error

    def _text(self, value: T) -> bytes:
        tree = self._adapter.dump_python(value, mode="json")
        text = json.dumps(tree, indent=1, sort_keys=True, allow_nan=False).encode()
        self._adapter.validate_json(text)  # what could not be read again is not written
        return text
