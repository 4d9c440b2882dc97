"""The files of a bundle: each is what ``bundle.json`` says of it, or the bundle is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

FORMAT = 1
MANIFEST, NOMINAL, REGION = "bundle.json", "nominal.safetensors", "roi.png"
Read = Callable[[str], bytes]


class BundleError(ValueError):
    """A bundle is damaged, of another format, or scores otherwise here; the message says which, and what to do."""


def parse_manifest(text: bytes) -> dict[str, Any]:
    """The content of a ``bundle.json``, whose format is one that is known.

    Raises:
        BundleError: it is no JSON object, or of another format.
    """
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{MANIFEST} is no JSON: copy the bundle again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise BundleError(
            f"{MANIFEST} has format {str(found)[:40]}, this release reads {FORMAT}: install the release of "
            "ad-assets-runtime that belongs to the project which exported it"
        )
    return manifest


class BundleFiles:
    """The files of a bundle, each as its manifest describes it.

    Args:
        read: gives the content of a file; raises OSError or KeyError where there is none.
        listed: path -> ``bytes`` and ``sha256``, of every file but the manifest.

    Raises:
        BundleError: a path leads out of the bundle.
    """

    def __init__(self, read: Read, listed: Mapping[str, Mapping[str, Any]]) -> None:
        self._read, self._listed = read, listed
        for path in listed:
            if path.startswith("/") or "\\" in path or ".." in path.split("/") or ":" in path:
                raise BundleError(
                    f"{MANIFEST} names {path[:200]!r}, which may lie outside of the bundle: it is refused"
                )

    def __contains__(self, path: str) -> bool:
        return path in self._listed

    def __getitem__(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            BundleError: it is missing, or another one than is listed.
        """
        if path not in self._listed:
            raise BundleError(f"{path}: {MANIFEST} has no hash of it: export the bundle again")
        known = self._listed[path]
        try:
            data = self._read(path)
        except (OSError, KeyError) as error:
            raise BundleError(f"{path} is missing: copy the whole bundle") from error
        if len(data) != known["bytes"]:
            raise BundleError(f"{path} has {len(data)} bytes instead of {known['bytes']}: copy the bundle again")
        if hashlib.sha256(data).hexdigest() != known["sha256"]:
            raise BundleError(f"{path} was changed (its sha256 differs): copy the bundle again")
        return data

    def tensors(self, path: str) -> dict[str, NDArray[Any]]:
        """Name -> array, of a file of tensors.

        Raises:
            BundleError: as for a file; or it holds none.
        """
        try:
            return dict(load_tensors(self[path]))
        except SafetensorError as error:
            raise BundleError(f"{path} holds no tensors ({error}): export the bundle again") from error
