"""What people decide of new images that were held back, and of training images: by name, in a terminal or in the UI."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ad_assets.config.benchmark import Benchmark
from ad_assets.config.faults import ConfigError
from ad_assets.graph.stages.image_index import current_index, read_index
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
        decided: path -> the decision before, of each image that it was recorded for.
        removed: path of a file that feedback had written -> path of its image.
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
    """Record what a person decided of some images.

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
    path_of = {image: held.path for image, held in read_admissions(benchmark.store, dataset, category).held.items()}
    every = ALL in names
    if every and (list(names) != [ALL] or decision != "admit"):
        raise ConfigError(f"{decision}: {ALL} stands alone, and for images to admit; name the images")
    if decision == "reject":
        path_of = {**_training_images(benchmark, dataset, category), **path_of}
    chosen = list(path_of) if every else _find(names, path_of)
    recorded = decide(benchmark.store, dataset, category, chosen, decision, undecided_only=every)
    removed = withdraw_files(benchmark, dataset, category, recorded)
    return Reviewed(
        {path_of[image]: before for image, before in recorded.items()},
        {path: path_of[image] for image, path in removed.items()},
        len(chosen) - len(recorded),
    )


def _find(wanted: Sequence[str], path_of: Mapping[str, str]) -> list[str]:
    """Ids of images named by path, file name, or beginning of the id.

    Raises:
        ConfigError: a name matches none or several.
    """
    chosen = []
    for name in wanted:
        by_id = [image for image in path_of if re.fullmatch(r"[0-9a-f]{6,64}", name) and image.startswith(name)]
        matches = by_id or [image for image, path in path_of.items() if path == name or path.endswith(f"/{name}")]
        if len(matches) != 1:
            listed = ", ".join(sorted(path_of.values())[:SHOWN]) or "none"
            raise ConfigError(f"{name!r} names {len(matches)} of the images that can be decided on; they are: {listed}")
        chosen += matches
    return chosen


def _training_images(benchmark: Benchmark, dataset: str, category: str) -> dict[str, str]:
    index = current_index(benchmark.store, dataset, category)
    rows = read_index(index) if index else []
    train = (row for row in rows if row["split"] == "train" or row.get("held_out"))
    return {content_of(row["image_id"]): row["path"] for row in train}
