"""What this process wrote to a store, or read there, and need not read again: as much of it as some bytes hold."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Memory(Generic[T]):
    """Values by key, those used last; threads may share it.

    Args:
        most_bytes: of all values together. A value that takes more than a quarter of them is not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._taken = most_bytes, 0
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._lock = Lock()

    def keep(self, key: str, value: T, size: int) -> None:
        """Keep a value of so many bytes in place of what the key had."""
        with self._lock:
            self._drop(key)
            if size > self._most // 4:
                return
            self._values[key] = value, size
            self._taken += size
            while self._taken > self._most:
                self._drop(next(iter(self._values)))

    def find(self, key: str) -> T | None:
        """The value of a key; None where it is not kept."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def forget(self, key: str) -> None:
        """Drop the value of a key."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: str) -> None:
        _, size = self._values.pop(key, (None, 0))
        self._taken -= size
