"""What was measured, one row a run, in a file that only grows: a comparison that was cut off goes on from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.peers.costs import Cost

OURS, THEIRS, THEIR_DRAW = "ours", "anomalib", "anomalib's draw, our code"
CHECKS = "checks"  # what holds of a run of both, in its notes


@dataclass(frozen=True)
class Record:
    """One run of one side, or one experiment.

    Args:
        dataset: of the images.
        category: of the images.
        detector: name of the detector.
        seed: of the run.
        side: `OURS`, `THEIRS`, the experiment `THEIR_DRAW`, or `CHECKS`.
        step: what was asked; see `tests.peers.lanes`.
        metrics: in percent, by name; empty where nothing was judged.
        cost: of a command; None of what is none.
        when: date and time at the end, UTC.
        load: of the machine over the minute before the run.
        notes: figures for the text of the page.
    """

    dataset: str
    category: str
    detector: str
    seed: int
    side: str
    step: str
    metrics: dict[str, float] = field(default_factory=dict)
    cost: Cost | None = None
    when: str = ""
    load: float = 0.0
    notes: dict[str, float | str] = field(default_factory=dict)

    @property
    def run(self) -> tuple[str, str, str, int]:
        """What both sides have done once."""
        return self.dataset, self.category, self.detector, self.seed

    @property
    def key(self) -> tuple[str, str, str, int, str, str]:
        """Which run it was."""
        return (*self.run, self.side, self.step)


class Records:
    """The records of a file; a line that a kill cut in two is taken away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.all: list[Record] = []
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        for line in whole.splitlines():
            values = json.loads(line)
            cost = Cost(**values.pop("cost")) if values["cost"] else values.pop("cost")
            self.all.append(Record(**values, cost=cost))

    def add(self, record: Record) -> None:
        """Keep a record."""
        self.all.append(record)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")

    def has(self, *keys: tuple[str, str, str, int, str, str]) -> bool:
        """Whether all of some runs are there."""
        return set(keys) <= {record.key for record in self.all}
