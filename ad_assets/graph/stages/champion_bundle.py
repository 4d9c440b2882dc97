"""Which bundle a line serves: a small file beside the histories of champions, which computers of a line follow.

``champion_bundles/<dataset>/<detector>/<category>.json`` is written after the history says who is champion, from what
the history says at that moment, by compare and swap: whoever writes last, it names the bundle of the latest champion.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from ad_assets.bundle.writer import sha256
from ad_assets.graph.stages.bundle import KIND, shared_graphs
from ad_assets.production.champion_history import ChampionChange, read_history
from ad_assets.store.store import ArtifactStore
from ad_assets_runtime.bundle_files import FORMAT, MANIFEST
from ad_assets_runtime.champions import POINTERS


def pointer_path(dataset: str, detector: str, category: str) -> str:
    """Path in the store of the file that a line follows."""
    return f"{POINTERS}/{dataset}/{detector}/{category}.json"


def point_to_bundle(store: ArtifactStore, dataset: str, detector: str, category: str) -> None:
    """Let the line follow the present champion; without a bundle of it nothing changes for the line.

    Raises:
        DamagedRecordError: the history cannot be read.
        CorruptArtifactError: the bundle is damaged.
    """

    def champion() -> ChampionChange | None:
        entries = read_history(store, dataset, detector, category).entries
        return entries[-1] if entries and entries[-1].candidate.bundle else None

    def change(before: bytes | None, known: ChampionChange) -> bytes:
        del before
        # Asked again here: the champion may have changed since, by another process that wrote this file already.
        return json.dumps(_pointer(store, champion() or known), indent=1, sort_keys=True).encode()

    if known := champion():
        store.update(pointer_path(dataset, detector, category), partial(change, known=known))


def _pointer(store: ArtifactStore, champion: ChampionChange) -> dict[str, Any]:
    artifact = store.artifact(KIND, champion.candidate.bundle)
    return {
        "format": FORMAT,
        "bundle": artifact.path,
        "sha256": sha256(store.read_bytes(artifact.at(MANIFEST))),
        "shared": shared_graphs(artifact),
        "state": champion.candidate.state,
        "since": champion.when,
        "reason": f"{champion.action}: {champion.reason}",
    }
