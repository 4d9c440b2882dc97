"""Numbers that remember how they were written, for where a name is wanted: ``01`` is a category, not 1."""

from __future__ import annotations

from typing import Self


class WrittenInt(int):
    """A whole number, and how it was written."""

    spelling: str

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.spelling = text
        return number


class WrittenFloat(float):
    """A number with a point, and how it was written."""

    spelling: str

    def __new__(cls, value: float, text: str) -> Self:
        number = super().__new__(cls, value)
        number.spelling = text
        return number


def spelling(value: object) -> object:
    """A number as it was written; any other value as it is."""
    return value.spelling if isinstance(value, WrittenInt | WrittenFloat) else value


def plain(value: object) -> object:
    """A number that has forgotten how it was written, as whoever serialises it needs; any other value as it is."""
    return int(value) if isinstance(value, WrittenInt) else float(value) if isinstance(value, WrittenFloat) else value
