"""Files of the store that nothing refers to: no current benchmark file, no recorded materialization.

An artifact is referred to when the head of any asset partition points to it (heads are the store's record of
materializations, of all benchmark files that share it), when it was ever champion, or when the current benchmark file
would make it: a setting put back finds its artifacts. A feature file is referred to by the images of a kept feature
index or of a champion, by images that wait for a decision, and by inspected images whose bytes are kept; the rows of
one variant by the kept studies that show them, the features of synthetic anomalies by the kept scores of these, groups
of near-copies by heads of features with the same training images, the graphs of bundles by the kept bundles.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import PurePosixPath

from ad_assets.graph.graph import Graph
from ad_assets.graph.stage import Slot
from ad_assets.graph.stages import bundle, feature_files, near_copies, studies
from ad_assets.graph.stages import synthetic_anomalies as synthetic
from ad_assets.graph.stages.fitted_state import STATES, read_training_set
from ad_assets.graph.stages.image_index import image_ids
from ad_assets.production.champion_history import HISTORY
from ad_assets.production.inspections import all_kept_images
from ad_assets.production.review_decisions import ADMISSIONS, decided_images
from ad_assets.store.layout import MARKER, artifact_folder
from ad_assets.store.records import read_record, recall
from ad_assets.store.store import HEAD, ArtifactStore, StoredFile
from ad_assets_runtime.bundle import MANIFEST
from ad_assets_runtime.identity import content_of

_LISTS = {  # kind -> its file that lists what else it refers to
    "features": feature_files.IMAGES,
    synthetic.KIND: synthetic.SCORES,
    bundle.KIND: MANIFEST,
    "study": studies.TABLE,
}


def unreferenced(graph: Graph, *, older_than: float) -> list[StoredFile]:
    """Files that may go.

    Args:
        graph: the stages of the current benchmark file on the store.
        older_than: seconds; younger files are spared, because a run may be writing them.
    """
    store = graph.store
    kept: set[str] = set()
    heads = [file.path for file in store.files("heads")]
    # A damaged one is refused: what it refers to would go.
    stored = store.each(lambda path: read_record(store, path, *HEAD), heads)
    versions, trained = {head["version"] for head in stored}, {head["parts"].get(near_copies.TRAIN) for head in stored}
    graph.refresh_heads()
    slots = list(graph.slots())
    for slot in slots:
        if head := graph.planned(slot):
            versions.add(head.version)
            trained.add(head.parts.get(near_copies.TRAIN))
    kept.update(*store.each(lambda slot: _planned_features(graph, slot), slots))
    champions = _champions(store)
    versions |= {version for version, _ in champions}
    kept |= {path for _, paths in champions for path in paths}
    held = _held_images(store) | {kept.image_id for kept in all_kept_images(store)}
    files = store.files(temporary=True)
    extractors = {stage.code_version for stage in graph.stages.values() if stage.kind == "features"}

    def refers_to(file: StoredFile) -> tuple[set[str], set[str]]:
        """The feature files, and the addresses of artifacts, that a file of an artifact refers to."""
        parts = file.path.split("/")
        if parts[1::2] == [near_copies.KIND, MARKER]:
            record = recall(store, file.path, near_copies.TRAIN)
            return set(), {parts[2]} if record and record[near_copies.TRAIN] in trained else set()
        if not artifact_folder(file.path) or parts[2] not in versions:
            return set(), set()
        kind, artifact = parts[1], store.artifact(parts[1], parts[2])
        path = artifact.at(_LISTS.get(kind, ""))
        in_record = kind in _LISTS and file.path == artifact.at(MARKER) and artifact.is_small(path)
        if file.path != path and not in_record:
            return set(), set()
        if kind == "features":
            return set(feature_files.feature_files(artifact)), set()
        if kind == synthetic.KIND:
            return set(), synthetic.features_of(artifact, extractors)
        if kind == bundle.KIND:
            return set(), {path.rsplit("/", 2)[1] for path in bundle.graph_files(artifact)}
        return set(), {row["fingerprint"] for row in studies.read_rows(artifact)}

    found = store.each(refers_to, files)
    kept.update(*(paths for paths, _ in found))
    versions = versions.union(*(addresses for _, addresses in found))
    now = time.time()
    return [
        file
        for file in files
        if now - file.changed >= older_than and not _is_referenced(file.path, versions, kept, held)
    ]


def is_needed(store: ArtifactStore, images: Iterable[str]) -> set[str]:
    """Those of some images that an index or a champion has, or that people decide or have decided on: their features
    are needed whether or not they were inspected."""

    def indexed(path: str) -> set[str]:
        head = recall(store, path, *HEAD)
        index = store.artifact("image_index", head["version"]) if head else None
        return set(image_ids(index)) if index and index.exists() else set()

    needed = _held_images(store)
    for _, paths in _champions(store):
        needed |= {PurePosixPath(path).stem for path in paths}
    heads = [file.path for file in store.files("heads") if file.path.split("/")[-2] == "image_index"]
    needed.update(*store.each(indexed, heads))
    decided = decided_images(store)
    return {image for image in images if image in needed or content_of(image) in decided}


def _champions(store: ArtifactStore) -> list[tuple[str, set[str]]]:
    """Address and feature files of every artifact of every champion so far: a rollback needs all of them."""

    def artifacts_of(file: StoredFile) -> list[tuple[str, set[str]]]:
        found: list[tuple[str, set[str]]] = []
        for entry in HISTORY.read(store, file.path).entries:
            candidate = entry.candidate
            made = (candidate.score_maps, candidate.metrics, candidate.synthetic, candidate.bundle)
            found += [(address, set()) for address in made if address]
            states = (store.artifact(kind, candidate.state) for kind in STATES)
            trained_on = next(filter(None, map(read_training_set, states)), None)
            found.append((candidate.state, trained_on.feature_files() if trained_on else set()))
        return found

    return [each for of_one in store.each(artifacts_of, store.files("champions")) for each in of_one]


def _held_images(store: ArtifactStore) -> set[str]:
    """Ids of training images that wait for a decision: an admitted one needs its features."""
    read = store.each(lambda file: ADMISSIONS.read(store, file.path), store.files("admissions"))
    return {image for admissions in read for image in admissions.held}


def _is_referenced(path: str, versions: set[str], kept: set[str], held: set[str]) -> bool:
    parts = path.split("/")
    if path.endswith(".tmp"):
        return False
    if artifact_folder(path):
        return parts[2] in versions
    if parts[0] == "features":
        return path in kept or PurePosixPath(path).stem in held
    # Heads, scans, generated images and a user's own files are never collected.
    return True


def _planned_features(graph: Graph, slot: Slot) -> set[str]:
    """Feature files that an unfinished extraction of the current benchmark file has made already."""
    stage, store = graph.stages[slot[0]], graph.store
    if stage.kind != "features":
        return set()
    index = graph.planned((stage.deps[0].key, slot[1]))
    artifact = store.artifact("image_index", index.version) if index else None
    if artifact is None or not artifact.exists():
        return set()
    return {feature_files.feature_path(stage.code_version, image) for image in image_ids(artifact)}
