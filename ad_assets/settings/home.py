"""Paths that begin with ``~``, the user's home, or ``~name``, the home of another user."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def without_tilde(path: str | Path) -> Path:
    """A path with ``~`` expanded; unchanged if there is no such user, as in fsspec."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - that of Path raises RuntimeError there


def known_home(path: str) -> str:
    """A path or URL of a benchmark file, as it is.

    Raises:
        ValueError: it begins with ``~name`` and there is no such user.
    """
    user = path.partition("/")[0]
    if user.startswith("~") and str(without_tilde(user)) == user:
        whose = f"there is no user {user[1:]!r} here" if user[1:] else "the home of this user is unknown"
        raise ValueError(f"{whose}; write the whole path, or ./{user} for a folder of that name")
    return path


LocalPath = Annotated[str, AfterValidator(known_home)]
