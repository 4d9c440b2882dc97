"""Deliberate bugs in store, heads, gates and decisions, and how many schedules it takes until each is caught.

``python -m tests.lives.bugs [SEED]``. Each is a function that patches the product in this process.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.lives.runner import FailedLifeError, live_through
from tests.lives.schedules import lives

MOST = 150  # schedules until a bug counts as missed
Patch = pytest.MonkeyPatch


def record_before_files(patch: Patch) -> None:
    """An artifact counts as complete before its files are written."""
    from ad_assets.graph import build

    original = build.build_within_memory

    def early(make: Any, work: Any) -> Any:
        from ad_assets.graph.provenance import MADE_OF

        sources = work.stage.made_of(work.upstream)
        work.artifact.commit({"asset": work.stage.name, "metadata": {}, "seconds": 0.0, MADE_OF: sources})
        return original(make, work)

    patch.setattr(build, "build_within_memory", early)


def last_writer_wins(patch: Patch) -> None:
    """A record is replaced although another process wrote it since it was read."""
    from ad_assets.store.compare_and_swap import SwapFile

    original = SwapFile.update

    def update(self: Any, change: Any, *, seen: Any = None) -> str:
        before = change(self.read()[0])
        return original(self, lambda _: before, seen=seen)

    patch.setattr(SwapFile, "update", update)


def head_kept(patch: Patch) -> None:
    """The head of score maps is not moved once there is one."""
    from ad_assets.store.heads import Heads

    original = Heads.replace

    def replace(self: Any, path: str, head: Any, seen: Any) -> Any:
        before = self.opened(path, seen[0])
        return before if before and "/score_maps/" in path else original(self, path, head, seen)

    patch.setattr(Heads, "replace", replace)


def address_without_images(patch: Patch) -> None:
    """The address of features does not follow the training images."""
    from ad_assets.graph.stages import image_index

    original = image_index.index_parts
    patch.setattr(image_index, "index_parts", lambda index: {**original(index), "train": "same"})


def label_free_truth(patch: Patch) -> None:
    """The labels of test images are no part of what metrics are addressed by."""
    from ad_assets.graph.stages import image_index

    original = image_index.index_parts
    patch.setattr(image_index, "index_parts", lambda index: {**original(index), "truth": "same", "all": "same"})


def update_after_removal(patch: Patch) -> None:
    """A state is updated although training images are gone."""
    from ad_assets.graph.stages import fitted_state

    original = fitted_state._earlier

    def earlier(work: Any, features: Any, region: str) -> Any:
        found, before = original(work, features, region)
        from ad_assets.graph.stages.feature_files import read_feature_index

        now = set(read_feature_index(work.input(features))[1]["train"])
        return found, before & now

    patch.setattr(fitted_state, "_earlier", earlier)


def open_gates(patch: Patch) -> None:
    """A state becomes champion whatever its gates say."""
    from ad_assets.graph.stages.champion_gates import Gates

    original = Gates.standing
    patch.setattr(Gates, "standing", lambda self, before: replace(original(self, before), kept_out=""))


def history_cut(patch: Patch) -> None:
    """Of the changes of champion the last alone is kept."""
    from ad_assets.production.champion_history import History

    original = History.with_champion

    def shortened(self: Any, *args: Any) -> Any:
        history = original(self, *args)
        return replace(history, entries=history.entries[-1:])

    patch.setattr(History, "with_champion", shortened)


def rejected_is_learnt(patch: Patch) -> None:
    """An image that was admitted once stays so when a person rejects it."""
    from ad_assets.prediction import new_image_gate
    from ad_assets.production.review_decisions import Reviews

    original = new_image_gate.read_reviews

    def without(store: Any, dataset: str, category: str) -> Reviews:
        reviews = original(store, dataset, category)
        return replace(reviews, decisions=dict.fromkeys(reviews.decisions, "admit"))

    patch.setattr(new_image_gate, "read_reviews", without)


def decisions_replaced(patch: Patch) -> None:
    """A decision takes the place of all before it."""
    from ad_assets.production import review_decisions
    from ad_assets.production.lasting_records import LastingRecord

    original = LastingRecord.update

    def update(self: Any, store: Any, path: str, change: Any, **seen: Any) -> Any:
        def replaced(before: Any) -> Any:
            return {image: said for image, said in change(before).items() if image not in before}

        return original(self, store, path, replaced if path.startswith("decisions/") else change, **seen)

    patch.setattr(LastingRecord, "update", update)
    patch.setattr(review_decisions, "refuse_loss", lambda *_: None)


def opposed_feedback_stays(patch: Patch) -> None:
    """A decision leaves feedback in force that says the opposite."""
    from ad_assets.production import review_decisions

    patch.setattr(review_decisions, "add_entries", lambda *_: None)


def champions_collected(patch: Patch) -> None:
    """What only a champion refers to is collected."""
    from ad_assets.graph import garbage

    patch.setattr(garbage, "_champions", lambda _: [])


BUGS = (
    *(record_before_files, last_writer_wins, head_kept, address_without_images, label_free_truth),
    *(update_after_removal, open_gates, history_cut, rejected_is_learnt, decisions_replaced, opposed_feedback_stays),
    champions_collected,
)


def schedules_until_caught(bug: Callable[[Patch], None], number: int) -> tuple[int, str]:
    """How many schedules were lived until the model objected, and its words; 0: it never did."""
    with pytest.MonkeyPatch.context() as patch, lives(patch) as live:
        bug(patch)
        try:
            live_through(live, MOST, number, shrink_seconds=0)
        except FailedLifeError as error:
            if "TypeError" in str(error):  # the bug as it is written here, and not what it stands for
                raise
            return error.number, str(error).partition("\n")[0][:120]
    return 0, "missed"


def main(number: int) -> bool:
    """A table of all bugs; whether each was caught."""
    logging.disable(logging.WARNING)
    caught = []
    for bug in BUGS:
        started = time.process_time()
        count, why = schedules_until_caught(bug, number)
        caught.append(bool(count))
        seconds = time.process_time() - started
        sys.stdout.write(f"| {bug.__name__} | {bug.__doc__} | {count or 'missed'} | {seconds:.0f} | {why} |\n")
        sys.stdout.flush()
    return all(caught)


if __name__ == "__main__":
    sys.exit(not main(int(sys.argv[1]) if sys.argv[1:] else 1))
