"""Random lives of a line: schedules of what people, processes and disks do, each a list of plain tuples.

`live` carries one out and checks the model; hypothesis finds the shortest one that fails.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from ad_assets.graph.garbage import unreferenced
from ad_assets.graph.graph import Graph
from ad_assets.graph.stages.champion import read_candidate
from ad_assets.prediction.feedback import give_feedback
from ad_assets.prediction.recording import png_of
from ad_assets.production.champion_history import BY_HAND, ROLLED_BACK, read_history, update_history
from ad_assets.production.review_decisions import decide, read_admissions
from tests.lives.disk import KINDS, SWAP, Disk, Fault, Killed
from tests.lives.factory import CATEGORY, Factory, Now, Process, loaded, pixels, simulated
from tests.lives.model import LANES, PLACE, Model, Opinion

Step = tuple[Any, ...]
LONGEST = 6  # events of a life
SEEDS, PLACES, REQUESTS = st.integers(0, 5), st.integers(0, 7), st.integers(0, 250)
FOLDERS = ("train/good", "test/good", "test/spot")
SETTINGS = (("bank", "coreset_ratio", 0.5, 0.25), ("sheets", "sheets", 2, 3))


def steps() -> st.SearchStrategy[Step]:
    """One event of a life."""
    faults = st.tuples(st.just("tick"), st.sampled_from(KINDS), REQUESTS)
    decisions = st.tuples(st.just("decide"), st.sampled_from(("admit", "reject")), PLACES)
    feedback = st.tuples(st.just("feedback"), st.sampled_from(("false_alarm", "missed", "undo")), PLACES)
    return st.one_of(
        st.tuples(st.just("land"), st.sampled_from(FOLDERS), SEEDS),
        st.tuples(st.just("half"), SEEDS),
        st.tuples(st.sampled_from(("delete", "rename")), st.sampled_from(FOLDERS), PLACES),
        st.tuples(st.just("replace"), st.sampled_from(FOLDERS), PLACES, SEEDS),
        st.tuples(st.just("copy"), st.sampled_from(FOLDERS), PLACES, st.sampled_from(FOLDERS)),
        st.tuples(st.just("relabel"), PLACES),
        st.tuples(st.just("mask"), st.integers(3, 7)),
        st.tuples(st.sampled_from(("odd", "mislead")), SEEDS),
        st.tuples(st.just("set"), st.integers(0, len(SETTINGS) - 1)),
        decisions,
        st.tuples(st.sampled_from(("promote", "roll back")), st.sampled_from(sorted(LANES))),
        st.tuples(st.just("wait"), st.sampled_from((5, 100, 1000, -500))),
        st.tuples(st.sampled_from(("tick", "restart", "collect", "verify", "lose cursor"))),
        st.tuples(st.just("beside"), REQUESTS, st.sampled_from(("run", "admit", "land"))),
        st.tuples(st.just("both decide"), PLACES, PLACES),
        feedback,
        st.tuples(st.just("dies"), st.integers(0, 30), st.one_of(feedback, decisions)),
        st.tuples(st.just("exchange"), st.sampled_from(FOLDERS), PLACES, SEEDS),
        faults,
        faults,
    )


class Life:
    """One line and what is known of it; a method an event."""

    def __init__(self, factory: Factory) -> None:
        self.factory, self.model = factory, Model(factory)
        self._names = itertools.count()
        self._halves: dict[str, bytes] = {}  # files whose upload goes on -> all of it

    def play(self, step: Step) -> None:
        """Let one event happen, and see what must hold at any time."""
        getattr(self, step[0].replace(" ", "_"))(*step[1:])
        self.model.see_champions()
        self.model.see_decisions()

    def end(self) -> None:
        """Let the line come to rest, and see what must hold then."""
        self.complete()
        self.factory.rest()
        if self.factory.faults:
            # Automation gives up after some tries; a person then asks for everything.
            self.factory.daemon.graph.refresh()
            if not all(map(self.factory.daemon.graph.is_current, self.factory.daemon.graph.slots())):
                assert not self.factory.daemon.make(self.factory.daemon.everything())
                self.factory.rest()
        self.model.see_rest()

    def _file(self, folder: str, place: int) -> str | None:
        files = sorted(self.model.on_disk(folder))
        # Two of each stay: what a category without any does is told elsewhere.
        return files[place % len(files)] if len(files) > 2 else None

    # Images

    def land(self, folder: str, seed: int) -> None:
        name = f"new{next(self._names)}"
        self.factory.put(f"{folder}/{name}.png", pixels(1000 + seed, defect=folder == "test/spot"))
        if folder == "test/spot":
            self.factory.mask(name, 5)

    def odd(self, seed: int) -> None:
        self.factory.put(f"train/good/odd{next(self._names)}.png", pixels(2000 + seed, defect=True))

    def mislead(self, seed: int) -> None:
        """A person admits what has a defect, so that the next state is worse."""
        self.odd(seed)
        self.tick()
        self.decide("admit", 0)
        self.tick()

    def half(self, seed: int) -> None:
        name = f"train/good/half{next(self._names)}.png"
        self.factory.put(name, pixels(3000 + seed))
        file = self.factory.images / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        self.factory.touch(name)
        self._halves[name] = whole

    def complete(self) -> None:
        for name, whole in self._halves.items():
            if (self.factory.images / name).exists():
                (self.factory.images / name).write_bytes(whole)
                self.factory.touch(name)
        self._halves.clear()

    def delete(self, folder: str, place: int) -> None:
        if name := self._file(folder, place):
            (self.factory.images / name).unlink()

    def rename(self, folder: str, place: int) -> None:
        if name := self._file(folder, place):
            file = self.factory.images / name
            if name not in self._halves:
                file.rename(file.with_name(f"renamed{next(self._names)}.png"))

    def replace(self, folder: str, place: int, seed: int) -> None:
        if (name := self._file(folder, place)) and name not in self._halves:
            self.factory.put(name, pixels(4000 + seed, defect=folder == "test/spot"))

    def copy(self, folder: str, place: int, other: str) -> None:
        if (name := self._file(folder, place)) and name not in self._halves:
            new = f"{other}/copy{next(self._names)}.png"
            shutil.copy(self.factory.images / name, self.factory.images / new)
            self.factory.touch(new)

    def exchange(self, folder: str, place: int, seed: int) -> None:
        """One image goes and another comes before anyone looks."""
        self.delete(folder, place)
        self.land(folder, seed)
        self.tick()

    def relabel(self, place: int) -> None:
        if name := self._file("test/good", place):
            moved = f"moved{next(self._names)}"
            (self.factory.images / name).rename(self.factory.images / f"test/spot/{moved}.png")
            self.factory.mask(moved, 5)

    def mask(self, side: int) -> None:
        self.factory.mask("000", side)

    # People

    def set(self, number: int) -> None:
        lane, key, first, second = SETTINGS[number]
        options = self.factory.tree["datasets"]["parts"]["detectors"][lane]
        options[key] = second if options[key] == first else first
        self.factory.configure()

    def decide(self, decision: Any, place: int) -> None:
        train = sorted(set(self.model.on_disk("train/good").values()))
        held = sorted(read_admissions(self.factory.daemon.store, *PLACE).held)
        image = (held or train)[place % len(held or train)]
        if decision == "reject" and not held and len(train) < 5:
            return
        with self.model.said(image, lambda before: before.decided(decision)):
            decide(loaded(self.factory.folder).store, *PLACE, [image], decision)

    def both_decide(self, one: int, other: int) -> None:
        """Two people decide at once: the second between what the first has read and what it writes."""
        with self.factory.disk.with_fault(Fault("beside", 0, lambda: self.decide("admit", other), SWAP)):
            self.decide("admit", one)

    def feedback(self, action: Any, place: int) -> None:
        """A person says what an inspected image was: one of the training folder, or one that is not there."""
        train = sorted(self.model.on_disk("train/good").items())
        path, image = train[place % len(train)]
        data = (self.factory.images / path).read_bytes()
        if place % 2:
            data = png_of(pixels(6000 + place // 2, defect=action == "missed"))
            image = hashlib.sha256(data).hexdigest()
        elif path in self._halves or (action == "missed" and len(train) < 5):
            return

        def change(before: Opinion) -> Opinion:
            return replace(before, verdict=None if action == "undo" else action)

        with self.model.said(image, change):
            defect = "spot" if action == "missed" else None
            give_feedback("parts", CATEGORY, [data], action, defect=defect, config=loaded(self.factory.folder))

    def dies(self, at: int, said: Step) -> None:
        """The process in which a person says something dies at a request."""
        with self.factory.disk.with_fault(Fault("die before", at)), suppress(Killed):
            getattr(self, said[0])(*said[1:])
        self.factory.faults += self.factory.disk.struck

    def promote(self, lane: str) -> None:
        store = loaded(self.factory.folder).store
        head = store.read_head(("parts", lane, "champion"), CATEGORY)
        assert head
        newest = read_candidate(store.artifact("champion", head["version"]))
        if read_history(store, "parts", lane, CATEGORY).champion != newest:
            update_history(store, "parts", lane, CATEGORY, lambda now: now.with_champion(newest, BY_HAND, "by hand"))

    def roll_back(self, lane: str) -> None:
        store = loaded(self.factory.folder).store
        history = read_history(store, "parts", lane, CATEGORY)
        states = [
            e.candidate for e in history.entries if history.champion and e.candidate.state != history.champion.state
        ]
        if states:
            update_history(
                store, "parts", lane, CATEGORY, lambda now: now.with_champion(states[-1], ROLLED_BACK, "worse")
            )

    # Processes

    def wait(self, seconds: float) -> None:
        self.factory.now += seconds

    def tick(self, kind: str = "", at: int = 0) -> None:
        self.factory.now += 100
        self.factory.tick(Fault(kind, at) if kind else None)

    def beside(self, at: int, what: str) -> None:
        """While the daemon is at a request, another process does something whole."""

        def act() -> None:
            if what == "admit":
                self.decide("admit", 0)
            elif what == "land":
                self.factory.put(f"train/good/beside{next(self._names)}.png", pixels(5000))
            else:
                process = Process(self.factory.folder)
                process.make(process.of_category())

        self.factory.now += 100
        self.factory.tick(Fault("beside", at, act))

    def restart(self) -> None:
        self.factory.restart()

    def lose_cursor(self) -> None:
        self.factory.cursor = None

    def collect(self) -> None:
        process = Process(self.factory.folder)
        graph = Graph(process.stages, process.store)
        process.store.delete([file.path for file in unreferenced(graph, older_than=0)])
        self.model.collected = True
        self.factory.restart()

    def verify(self) -> None:
        process = Process(self.factory.folder)
        process.make(process.everything(), verify=True)


@contextmanager
def lives(patch: pytest.MonkeyPatch) -> Iterator[Callable[[Sequence[Step]], None]]:
    """Gives what carries out schedules and raises AssertionError for what must not be; lines begin as copies of one."""
    memory = Path("/dev/shm")  # noqa: S108 - as TemporaryDirectory names what it makes there
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        disk, numbers = Disk(), itertools.count()
        with simulated(patch, disk):
            first = Now.factory = Factory(Path(name) / "first", disk)
            first.begin()

            def live(schedule: Sequence[Step]) -> None:
                folder = Path(name) / str(next(numbers))
                Now.factory = None
                factory = Now.factory = first.copied(folder)
                try:
                    life = Life(factory)
                    for step in schedule:
                        life.play(step)
                    life.end()
                finally:
                    shutil.rmtree(folder)

            yield live
