"""Processes forked for tests begin whatever this one is doing, and say so where they cannot."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forked import Forked, Template

LOCK = threading.Lock()


@pytest.fixture
def _held() -> Iterator[None]:
    """A thread of this process holds the lock."""
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        with LOCK:
            holds.set()
            done.wait()

    thread = threading.Thread(target=hold, name="holder")
    thread.start()
    holds.wait()
    yield
    done.set()
    thread.join()


def take_the_lock() -> int:
    return 0 if LOCK.acquire(timeout=1) else 1


@pytest.mark.usefixtures("_held")
def test_no_lock_of_a_thread_is_inherited(tmp_path: Path) -> None:
    assert Forked(take_the_lock, tmp_path / "log.txt").wait() == 0
    with pytest.raises(RuntimeError, match=r"started threads.*holder"):
        Template()


def test_a_template_that_was_killed_is_told_of(tmp_path: Path) -> None:
    def ask_a_killed_one() -> int:
        template = Template()
        os.kill(template.pid, signal.SIGKILL)
        os.waitpid(template.pid, 0)
        with pytest.raises(RuntimeError, match="something killed it"):
            template.begin(take_the_lock, Path(os.devnull), {})
        return 0

    log = tmp_path / "log.txt"
    assert Forked(ask_a_killed_one, log).wait() == 0, log.read_text(encoding="utf-8")


def test_what_a_process_says_and_how_it_ends_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise ValueError(os.environ["HERE"] + os.environ["THERE"])

    monkeypatch.setenv("HERE", "of this process, ")
    log = tmp_path / "log.txt"
    failed = Forked(fail, log, {"THERE": "of its own"})
    assert failed.wait() == failed.poll() == 70
    assert "ValueError: of this process, of its own" in log.read_text(encoding="utf-8")
    waiting = Forked(signal.pause, log)  # type: ignore[arg-type]
    assert waiting.poll() is None
    waiting.kill()
    assert waiting.poll() == -signal.SIGKILL
