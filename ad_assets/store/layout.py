"""File names in a store: those in the folder of an artifact, and which artifact a path belongs to."""

from __future__ import annotations

from pathlib import PurePosixPath

from ad_assets.store.local import TEMPORARY

ARTIFACTS = "artifacts"
MARKER = "artifact.json"
CHECKPOINT = "checkpoint.safetensors"  # of an unfinished build; not part of the artifact
TENSORS = ".safetensors"
PACKED, SHARDS = (
    "features",
    "shards",
)  # files below the first lie in shards, in the folder of this name of each extractor


def artifact_folder(path: str) -> str | None:
    """The folder of the artifact that a path belongs to; None for other files."""
    parts = path.split("/")
    return "/".join(parts[:3]) if parts[0] == ARTIFACTS and len(parts) > 3 else None


def is_recorded(path: str) -> bool:
    """Whether a file in the folder of an artifact is listed in its record."""
    return not path.endswith(TEMPORARY) and PurePosixPath(path).name not in (MARKER, CHECKPOINT)
