"""Folders that a reader unpacks from a download: each is made once, completely or not at all.

A folder is written under a dotted name, which listings skip, and renamed when it is complete. After an interruption it
is made again from the start; processes that need the same folder wait for the one that makes it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from ad_assets.datasets.base import Reader
from ad_assets.settings.home import LocalPath

if sys.platform != "win32":
    import fcntl

MARKER = ".unpacked.json"


class UnpackedReader(Reader):
    """Base of readers that unpack a published download, `source`, into `root`."""

    source: LocalPath | None = Field(
        None,
        min_length=1,
        description="published folder or archive to unpack into root; null: already unpacked",
    )
    check_counts: bool = Field(True, description="compare the numbers of images or clips with the published ones")

    @model_validator(mode="after")
    def _local(self) -> Self:
        if self.source and "://" in self.source + self.root:
            raise ValueError("source and root must be local: unpack there, copy root, and set source: null")
        return self

    def index_config(self) -> dict[str, Any]:
        """Without `source`: the same images are the same index, wherever they were unpacked from."""
        return {key: value for key, value in super().index_config().items() if key != "source"}


def make_once(folder: Path, facts: Mapping[str, Any], write: Callable[[Path], list[str]]) -> None:
    """Make a folder unless it exists.

    Args:
        folder: the folder to make.
        facts: JSON values that describe how it is made; kept in the folder.
        write: fills the empty folder that it is given, and returns warnings.

    Raises:
        ValueError: the folder exists and was made differently.
    """
    if is_made(folder, facts):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_name(f".{folder.name}.lock")):
        if is_made(folder, facts):
            return
        made = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(made, ignore_errors=True)  # left by a killed run: the lock excludes a running one
        made.mkdir()
        try:
            warnings = write(made)
            (made / MARKER).write_text(json.dumps({"facts": dict(facts), "warnings": warnings}))
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def is_made(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the folder exists and was made with these facts.

    Raises:
        ValueError: it exists and was made by other means, or with other facts.
    """
    marker = _marker(folder)
    if marker is None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(
                f"{folder} exists and was not unpacked by ad-assets: move it away, name another root, or set source: "
                "null to use it as it is"
            )
        return False
    check_facts(folder, facts)
    return True


def check_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Check that the folder, if it was unpacked, was unpacked with these facts.

    Raises:
        ValueError: it was unpacked with others.
    """
    marker = _marker(folder)
    if marker is None:
        return
    former = marker["facts"]
    differing = [key for key in facts if former.get(key) != facts[key]]
    if differing:
        differences = " and ".join(f"{key} {former.get(key)} instead of {facts[key]}" for key in differing)
        raise ValueError(
            f"{folder} was unpacked with {differences}: name another root, or remove it to unpack it again"
        )


def warnings_of(folder: Path) -> list[str]:
    """The warnings from when the folder was made."""
    marker = _marker(folder)
    return [] if marker is None else [str(warning) for warning in marker["warnings"]]


def _marker(folder: Path) -> dict[str, Any] | None:
    try:
        marker = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(marker, dict) or not isinstance(marker.get("facts"), dict):
        return None
    return marker if isinstance(marker.get("warnings"), list) else None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold an exclusive file lock, which the system releases when a process dies; without effect on Windows."""
    with path.open("w") as lock:
        if sys.platform != "win32":
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
