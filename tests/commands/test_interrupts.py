"""Ctrl-C and SIGTERM in the middle of a computation, and readers of the output that go away: real processes, timed."""

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import dagster as dg
import pytest
import yaml

from ad_assets.cli import main
from ad_assets.defs.runs import open_instance
from ad_assets.methods.memory_bank.patch_bank import PatchBank
from ad_assets.store.store import ArtifactStore
from tests.support.bench_graph import config_tree, write_dataset
from tests.support.forked import Forked, command


def test_a_signal_in_the_middle_of_a_step_ends_the_process_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "images", ("bolt",))
    config, begun = tmp_path / "bench.yaml", tmp_path / "begun"
    tree = config_tree(tmp_path)
    tree["datasets"]["parts"]["detectors"].pop("full")
    config.write_text(yaml.safe_dump(tree, sort_keys=False))
    arguments, log = ["materialize", "--config", str(config)], tmp_path / "log.txt"

    def busy(*_: object) -> None:
        # No signal gets through to it by itself: a pool of threads is waited for, as kernels are.
        begun.touch()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(time.sleep, 60).result()

    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        begun.unlink(missing_ok=True)
        log.unlink(missing_ok=True)
        call = command(arguments, before=lambda: setattr(PatchBank, "fit", busy))
        process = Forked(call, log, {"DAGSTER_HOME": str(tmp_path / "home")})
        limit = time.monotonic() + 60
        while not begun.exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        assert begun.exists(), log.read_text(encoding="utf-8")
        sent = time.monotonic()
        if number == signal.SIGINT:
            process.send(number)  # Ctrl-C, which Dagster's watchers of a step get too
        else:
            os.kill(process.pid, number)
        assert process.wait() == status
        assert time.monotonic() - sent < 2
        told = log.read_text(encoding="utf-8")
        assert "interrupted; finished work is kept" in told
        assert "Traceback" not in told
        store = ArtifactStore(root=str(tmp_path / "store"))
        assert not [file.path for file in store.files(temporary=True) if file.path.endswith(".tmp")]
        assert store.files("attempts") == []  # it is neither failed nor cut off
        with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
            assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.CANCELED}
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    assert main(arguments) == 0


def open_home(start: Path) -> int:
    while not start.exists():
        time.sleep(0.001)
    open_instance("bench.yaml").get_runs_count()
    return 0


def test_four_processes_open_one_fresh_home_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    start, log = tmp_path / "start", tmp_path / "log.txt"
    processes = [Forked(partial(open_home, start), log) for _ in range(4)]
    start.touch()
    assert [process.wait() for process in processes] == [0] * 4, log.read_text(encoding="utf-8")


def test_a_reader_that_goes_away_ends_a_command_quietly(tmp_path: Path) -> None:
    def unread() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, sys.stdout.fileno())

    log = tmp_path / "log.txt"
    assert Forked(command(["table", "--list"], before=unread), log).wait() == 141
    assert log.read_bytes() == b""


@pytest.mark.parametrize(
    "options",
    [["--config", "demo", "--config", "mtd"], ["--set", "a.b=1", "--set", "a.b=2"], ["--set", "a=1", "--set", "a.b=2"]],
)
def test_an_option_given_twice_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["status", *options])
    assert "twice" in capsys.readouterr().err
