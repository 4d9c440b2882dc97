"""Relative paths of a benchmark file: they begin at its folder, wherever a command is run.

Those of shipped files, of the environment and of the command line begin at the working directory, as people type them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from ad_assets.backbones.extractor import WEIGHT_SUFFIXES
from ad_assets.datasets import READERS
from ad_assets.store.files import DEFAULT_ROOT

# Where a benchmark file has paths; * is any name. What lies below a dataset's root (`roi`, `manifest`) begins there.
PATHS = (
    "store.root",
    "datasets.*.root",
    "datasets.*.source",
    "datasets.*.production.outboxes.*",
    "extractors.*.weights",
)


def begin_at(folder: Path, tree: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Let the relative paths in the tree of a benchmark file begin at its folder; changes the tree.

    Args:
        folder: as the user wrote it, such as ``.`` or ``line``.
        tree: what was read from the file alone.

    Returns:
        Key -> path as it is written and as it is now, of those where one lies in the working directory as written, and
        none in the folder: earlier releases took the former.
    """
    _write_defaults(tree)
    moved = {}
    datasets = tree.get("datasets")
    datasets = list(datasets) if isinstance(datasets, dict) else []
    for pattern in PATHS:
        for key, node, last in _places(tree, pattern.split("."), ""):
            written = node[last]
            if not isinstance(written, str) or not _is_relative(written, key, folder):
                continue
            node[last] = begun = str(folder / written)
            # Another file's store in the working directory, such as the demo's, is none of this one's.
            own = [f"{written}/heads/{name}" for name in datasets] if key == "store.root" else [written]
            if begun != str(Path(written)) and any(map(_exists, own)) and not _exists(begun):
                moved[key] = (written, begun)
    return moved


def still_moved(tree: dict[str, Any], moved: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Those of the moved paths that nothing but the file says."""
    return {
        key: paths
        for key, paths in moved.items()
        for _, node, last in _places(tree, key.split("."), "")
        if node[last] == paths[1]
    }


def fixed(key: str, value: str) -> str:
    """What a dotted key is set to, as it is meant in any working directory: a relative path as an absolute one.

    >>> fixed("compute.device", "cpu"), fixed("store.root", "s3://bucket"), fixed("store.root", "a")[0]
    ('cpu', 's3://bucket', '/')
    """
    names = key.split(".")
    patterns = [pattern.split(".") for pattern in PATHS]
    known = any(len(p) == len(names) and all(a in ("*", b) for a, b in zip(p, names, strict=True)) for p in patterns)
    return str(Path(value).absolute()) if known and _is_relative(value, key, Path()) else value


def _write_defaults(tree: dict[str, Any]) -> None:
    """The store's root and those that readers have by themselves, which begin at the folder too."""
    store = tree.setdefault("store", {})
    if store is None:
        tree["store"] = store = {}
    if isinstance(store, dict):
        store.setdefault("root", DEFAULT_ROOT)
    datasets = tree.get("datasets")
    for section in datasets.values() if isinstance(datasets, dict) else ():
        reader = READERS.get(str(section.get("reader"))) if isinstance(section, dict) else None
        default = reader.model_fields["root"].default if reader else None
        if default and isinstance(default, str):
            section.setdefault("root", default)


def _places(node: Any, keys: list[str], above: str) -> Iterator[tuple[str, Any, Any]]:
    """Full key, node and last key of all places of a pattern; what is no section of that kind has none."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, inner in list(items):
        if keys[0] not in ("*", str(name)):
            continue
        here = f"{above}.{name}" if above else str(name)
        if keys[1:]:
            yield from _places(inner, keys[1:], here)
        else:
            yield here, node, name


def _is_relative(path: str, key: str, folder: Path) -> bool:
    if not path or path.startswith("~") or "://" in path or Path(path).is_absolute() or PureWindowsPath(path).drive:
        return False
    # Weights may be a word, such as hub.
    return not key.endswith(".weights") or "/" in path or path.endswith(WEIGHT_SUFFIXES) or _exists(str(folder / path))


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # such as a name that is too long
        return False
