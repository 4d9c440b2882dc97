"""What people decide of new images that were held back, and of training images: by name, in a terminal or in the UI."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ad_assets.config.benchmark import Benchmark
from ad_assets.config.faults import ConfigError
from ad_assets.graph.stages.image_index import current_index, read_index
from ad_assets.graph.stages.known_files import read_known_files
from ad_assets.prediction.feedback import withdraw_files
from ad_assets.production.feedback_ledger import Decision
from ad_assets.production.review_decisions import decide, read_admissions
from ad_assets_runtime.identity import content_of

ALL = "all"
SHOWN = 10


@dataclass(frozen=True)
class Reviewed:
    """What became of a review.

    Args:
        decided: paths -> the decision before, of each image that it was recorded for.
        removed: path of a file that feedback had written -> paths of its image.
        standing: how many were left as somebody had decided before.
    """

    decided: Mapping[str, Decision | None]
    removed: Mapping[str, str]
    standing: int

    def lines(self, decision: Decision) -> list[str]:
        """What to tell of it."""
        done = "admitted" if decision == "admit" else "rejected"
        earlier = {"admit": "  (was admitted)", "reject": "  (was rejected)", None: ""}
        return [
            *(f"removed   {path}, which feedback had written of {image}" for path, image in self.removed.items()),
            *(f"{done}  {path}{earlier[before]}" for path, before in self.decided.items()),
        ]


def review(benchmark: Benchmark, dataset: str, category: str, names: Sequence[str], decision: Decision) -> Reviewed:
    """Record what a person decided of some images. An image is its content: all files of it share what is decided.

    Args:
        benchmark: the checked benchmark file, on the store of its line.
        dataset: of the images.
        category: of the images.
        names: paths, file names or beginnings of the ids of images that are held back; of training images too where
            they are rejected. `ALL` alone: all that are held back and undecided.
        decision: about all of them.

    Raises:
        ConfigError: a name is that of no image, or of several.
        DamagedRecordError: the decisions so far cannot be read, or are lost.
    """
    every = ALL in names
    if every and (list(names) != [ALL] or decision != "admit"):
        raise ConfigError(f"{decision}: {ALL} stands alone, and for images to admit; name the images")
    paths_of = _paths(benchmark, dataset, category, trained=decision == "reject")
    chosen = list(paths_of) if every else _find(names, paths_of)
    recorded = decide(benchmark.store, dataset, category, chosen, decision, undecided_only=every)
    removed = withdraw_files(benchmark, dataset, category, recorded)
    return Reviewed(
        {", ".join(paths_of[image]): before for image, before in recorded.items()},
        {path: ", ".join(paths_of[image]) for image, path in removed.items()},
        len(chosen) - len(recorded),
    )


def _find(wanted: Sequence[str], paths_of: Mapping[str, Sequence[str]]) -> list[str]:
    """Ids of images named by path, file name, or beginning of the id.

    Raises:
        ConfigError: a name matches none or several.
    """
    chosen = []
    for name in wanted:
        by_id = [image for image in paths_of if re.fullmatch(r"[0-9a-f]{6,64}", name) and image.startswith(name)]
        matches = by_id or [image for image, paths in paths_of.items() if any(_is_named(path, name) for path in paths)]
        if len(matches) != 1:
            known = sorted(path for paths in paths_of.values() for path in paths)
            listed = ", ".join(known[:SHOWN]) or "none"
            raise ConfigError(f"{name!r} names {len(matches)} of the images that can be decided on; they are: {listed}")
        chosen += matches
    return chosen


def _is_named(path: str, name: str) -> bool:
    return path == name or path.endswith(f"/{name}")


def _paths(benchmark: Benchmark, dataset: str, category: str, *, trained: bool) -> dict[str, list[str]]:
    """The images that can be decided on -> the paths of each, ascending.

    Args:
        benchmark: the checked benchmark file.
        dataset: of the images.
        category: of the images.
        trained: whether training images are among them, beside those that are held back.
    """
    store, reader = benchmark.store, benchmark.datasets[dataset].reader
    paths: dict[str, set[str]] = {}
    for row in _training_images(benchmark, dataset, category) if trained else ():
        paths.setdefault(content_of(row["image_id"]), set()).add(row["path"])
    for image, held in read_admissions(store, dataset, category).held.items():
        paths.setdefault(image, set()).add(held.path)
    # An index has no row of what is held back, and the record of that names one file.
    known = read_known_files(store, reader.root, category)
    for each in reader.assign(sorted(known)).get(category, []):
        image = known[each.path].sha256
        if each.split == "train" and image in paths:
            paths[image].add(each.path)
    return {image: sorted(own) for image, own in paths.items()}


def _training_images(benchmark: Benchmark, dataset: str, category: str) -> list[dict[str, Any]]:
    index = current_index(benchmark.store, dataset, category)
    return [row for row in (read_index(index) if index else ()) if row["split"] == "train" or row.get("held_out")]
