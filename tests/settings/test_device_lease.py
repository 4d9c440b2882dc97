"""Processes of one machine take a GPU each, share the least loaded one, and give it back however they end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ad_assets.graph import build
from ad_assets.settings import device_lease
from ad_assets.settings.compute import Compute
from ad_assets.settings.device_lease import Card, ask_driver, current_lease, free_bytes, holders, lease
from tests.support.bench_graph import Bench

TWO = [Card(0, "a", "H100"), Card(1, "b", "H100")]
CONTENDER = """
import sys
from ad_assets.settings.device_lease import Card, lease
held = lease([Card(number, identity, "H100") for number, identity in enumerate(sys.argv[1:])])
print(held.card.identity, held.others, flush=True)
sys.stdin.read()
"""
Contend = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Locks of this test alone; what this process takes is given back."""
    monkeypatch.setenv(device_lease.FOLDER_VARIABLE, str(tmp_path / "leases"))
    monkeypatch.setattr(device_lease, "_held", held := [])
    monkeypatch.setattr(device_lease, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(device_lease, "free_bytes", dict)  # of no driver
    yield tmp_path / "leases"
    for each in held:
        each.lock.release()


@pytest.fixture
def contend() -> Iterator[Contend]:
    """Starts a process that leases one of the GPUs, in its own numbering, and keeps it until it is killed."""
    started = []

    def start(*identities: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CONTENDER, *identities]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str]) -> tuple[str, int]:
    """The GPU that a process got, and how many others it shares it with."""
    assert process.stdout is not None
    identity, others = process.stdout.readline().split()
    return identity, int(others)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Card]], None]:
    def seen(cards: Sequence[Card]) -> None:
        facts = [SimpleNamespace(uuid=card.identity, name=card.name) for card in cards]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(facts))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(facts))
        monkeypatch.setattr(torch.cuda, "get_device_properties", facts.__getitem__)
        monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)

    return seen


def test_processes_take_a_gpu_each_and_a_killed_one_frees_its_own(
    contend: Contend, caplog: pytest.LogCaptureFixture
) -> None:
    at_once = [contend("a", "b", "c") for _ in range(3)]
    got = [told(process) for process in at_once]
    assert sorted(got) == [("a", 0), ("b", 0), ("c", 0)]  # though all three looked at the same time
    one_more = contend("a", "b", "c")
    assert told(one_more)[1] == 1  # shared
    everything = [Card(number, identity, "H100") for number, identity in enumerate("abc")]
    assert sorted(len(holders(card)) for card in everything) == [1, 1, 2]
    alone = next(position for position, (identity, _) in enumerate(got) if len(holders(Card(0, identity, ""))) == 1)
    at_once[alone].kill()
    at_once[alone].wait()
    mine = lease(everything)
    assert mine is not None
    assert (mine.card.identity, mine.others) == (got[alone][0], 0)
    assert holders(mine.card) == [os.getpid()]
    assert "shared" not in caplog.text


def test_a_gpu_has_other_numbers_in_other_processes(contend: Contend) -> None:
    assert told(contend("b")) == ("b", 0)  # as with CUDA_VISIBLE_DEVICES=1: there it is number 0
    mine = lease(TWO)
    assert mine is not None
    assert mine.card == TWO[0]


def test_more_processes_than_gpus_share_the_least_loaded_and_are_warned(
    contend: Contend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second = contend("a"), contend("a")
    assert sorted([told(first)[1], told(second)[1]]) == [0, 1]
    assert told(contend("b")) == ("b", 0)
    mine = lease(TWO)
    assert str(mine) == "cuda:1 (H100, b), shared with 1 other process"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "more processes compute than there are GPUs" in caplog.text


def test_on_a_single_gpu_runs_take_turns_without_a_warning(contend: Contend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert told(contend("a")) == ("a", 0)
    lease(TWO[:1])
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "cuda:0 (H100, a), shared with 1 other process" in caplog.text


def test_of_free_gpus_the_one_with_most_free_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_lease, "free_bytes", lambda: {"a": 1, "b": 2})
    mine = lease(TWO)
    assert mine is not None
    assert mine.card == TWO[1]


def test_a_process_keeps_its_gpu_and_a_fork_takes_its_own() -> None:
    forking = """
import os
from ad_assets.settings.device_lease import Card, holders, lease
cards = [Card(0, "a", "H100"), Card(1, "b", "H100")]
mine = lease(cards)
assert mine is lease(cards)
child = os.fork()
if child == 0:
    print("child", lease(cards).card.identity, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", lease(cards).card.identity, [len(holders(card)) for card in cards])
"""
    said = subprocess.run([sys.executable, "-c", forking], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["child b", "parent a [1, 0]"]


def test_a_folder_that_cannot_be_written_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.write_text("no folder")
    assert lease(TWO) is None
    assert "others may compute on the same one" in caplog.text


def test_auto_takes_a_free_gpu_and_a_named_one_is_seen_by_others(
    cards: Callable[[Sequence[Card]], None], contend: Contend
) -> None:
    cards(TWO)
    assert Compute().torch_device(lease=False) == "cuda:0"
    assert current_lease() is None
    assert told(contend("a")) == ("a", 0)
    assert Compute().torch_device() == "cuda:1"
    assert Compute(device="cuda").torch_device() == "cuda:1"
    assert told(contend("b")) == ("b", 1)
    assert Compute(device="cuda:0").torch_device() == "cuda:0"  # by name, though another process computes there
    assert holders(TWO[1]) != holders(TWO[0])
    assert os.getpid() in holders(TWO[0])
    assert os.getpid() not in holders(TWO[1])
    assert Compute().torch_device(lease=False) == "cuda:0"


def test_the_gpu_is_in_the_metadata_of_what_was_built_on_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    held = lease(TWO)
    made = {}
    for name in ("parts/image_index", "parts/features/lite0", "parts/features/lite0"):
        stage = next(each for each in bench.stages if each.name == name)
        log = SimpleNamespace(info=lambda _: None)
        outcome = build.materialize(stage, "bolt", bench.benchmark.store, bench.benchmark.compute, log)
        made[name, outcome.found] = outcome.metadata.get("gpu")
    assert made["parts/features/lite0", False] == str(held) == "cuda:0 (H100, a)"
    assert set(made.values()) == {None, str(held)}


def test_the_driver_is_asked_by_its_own_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text('#!/bin/sh\necho "GPU-a, 81000, 9.0"\necho "GPU-b, 24000, 8.6"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_driver("uuid", "memory.free", "compute_cap") == [
        {"uuid": "GPU-a", "memory.free": "81000", "compute_cap": "9.0"},
        {"uuid": "GPU-b", "memory.free": "24000", "compute_cap": "8.6"},
    ]
    command.write_text('#!/bin/sh\necho "GPU-a, [N/A]"\necho "GPU-b, 24000"\n')
    assert free_bytes() == {"b": 24000 << 20}
    command.write_text("#!/bin/sh\nexit 9\n")
    assert ask_driver("uuid") == []
    command.unlink()
    assert ask_driver("uuid") == []
