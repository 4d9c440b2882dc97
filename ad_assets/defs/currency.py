"""What of each asset is not what the settings and the images give now, and why: from heads, addresses and listings."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ad_assets.config.benchmark import Benchmark
from ad_assets.graph.graph import FROM_SOMETHING_ELSE, Graph
from ad_assets.graph.stage import Key, Slot, Stage
from ad_assets.graph.stages.image_index import UNKNOWN, changed_files

SHOWN = 10  # reasons
NAMED = 5  # categories of a reason
# Of the time, at most, goes into looks at the store, and as much into listing the folders of datasets.
LOOKING_SHARE = 0.05


@dataclass(frozen=True)
class Currency:
    """What of an asset is not current.

    Args:
        made: how many of its partitions were made.
        reasons: category, empty for an asset over all, -> why it is not current.
    """

    made: int
    reasons: Mapping[str, str]

    @property
    def summary(self) -> str:
        """In one line."""
        if not self.reasons:
            return "up to date"
        counted = Counter(self.reasons.values()).most_common()
        others = f"; {len(counted) - 1} other reasons" if len(counted) > 1 else ""
        which = "" if set(self.reasons) == {""} else f"{len(self.reasons)} of {self.made} categories: "
        return f"{which}{counted[0][0]}{others}"

    @property
    def why(self) -> str:
        """A line a reason, with its categories."""
        by_reason: dict[str, list[str]] = {}
        for category, reason in self.reasons.items():
            by_reason.setdefault(reason, []).append(category)
        lines = []
        for reason, categories in list(by_reason.items())[:SHOWN]:
            more = f" and {len(categories) - NAMED} more" if len(categories) > NAMED else ""
            named = ", ".join(categories[:NAMED])
            lines.append(f"{named}{more}: {reason}" if named else reason)
        if len(by_reason) > SHOWN:
            lines.append(f"{len(by_reason) - SHOWN} more reasons: ad-assets status")
        return "\n".join(lines)


class Pace:
    """Keeps what is done again and again to a share of the time; ``with`` it, it is done.

    Args:
        share: of the time.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._began = self._ended = -math.inf

    def is_due(self) -> bool:
        """Whether it may be done again."""
        took = self._ended - self._began if math.isfinite(self._ended) else 0.0
        return (time.monotonic() - self._ended) * self._share >= took

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._ended = time.monotonic()


class CurrencyLook:
    """Looks at a store, again and again.

    Args:
        benchmark: the checked benchmark file.
        stages: all its stages.
    """

    def __init__(self, benchmark: Benchmark, stages: Sequence[Stage]) -> None:
        self._benchmark = benchmark
        self._graph = Graph(stages, benchmark.store)
        self._files: dict[str, dict[str, str]] = {}
        self._listing = Pace(LOOKING_SHARE)

    def __call__(self, *, list_files: bool = False) -> dict[Key, Currency]:
        """Of each asset of which something was made.

        Args:
            list_files: look into the folders of the datasets whatever that costs; else they are listed as often as
                `LOOKING_SHARE` admits.
        """
        self._graph.refresh()
        if list_files or self._listing.is_due():
            self._list()
        found: dict[Key, Currency] = {}
        for key, stage in self._graph.stages.items():
            slots = [(key, each) for each in (stage.partitions if stage.partitions is not None else (None,))]
            made = [slot for slot in slots if self._graph.head(slot) or self._graph.has_damaged_head(slot)]
            if made:
                told = {slot[1] or "": self._reason(slot) for slot in made}
                found[key] = Currency(len(made), {name: reason for name, reason in told.items() if reason})
        return found

    def _list(self) -> None:
        names = {key[0] for key, stage in self._graph.stages.items() if stage.address is None}
        with self._listing:
            self._files = {
                name: changed_files(
                    self._benchmark.datasets[name],
                    self._graph.store,
                    [slot[1] for slot in self._graph.slots() if slot[0][0] == name and slot[1] and self._is_root(slot)],
                )
                for name in names & self._benchmark.datasets.keys()
            }

    def _is_root(self, slot: Slot) -> bool:
        return self._graph.stages[slot[0]].address is None

    def _reason(self, slot: Slot) -> str:
        """Why an asset partition is not current; that of what it was made from, if that is why."""
        if self._is_root(slot):
            change = self._files.get(slot[0][0], {}).get(slot[1] or "", "")
            if change and change != UNKNOWN:
                return change
        reason = self._graph.stale_reason(slot) or self._graph.damage(slot)
        if reason != FROM_SOMETHING_ELSE:
            return reason
        for read in self._graph.stages[slot[0]].slots(slot[1]):
            if why := self._graph.stale_reason(read):
                return f"{'/'.join(read[0])}{'' if read[1] == slot[1] else f' [{read[1]}]'} is not current ({why})"
        return reason
