"""Messages of libraries in a line of a log."""

from __future__ import annotations

MOST_CHARACTERS = 300


def short(error: Exception) -> str:
    """What an error says, on one line and not too long; its name where it says nothing.

    >>> short(ValueError("no  such\\nfile"))
    'no such file'
    """
    return " ".join(str(error).split())[:MOST_CHARACTERS] or type(error).__name__
