"""Another process that has loaded all that the tests import: a command begins at once in it, not after four seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import cloudpickle
import pandas  # noqa: F401 - it, torch and timm are imported by a command on its way, in each process anew
import timm  # noqa: F401
import torch  # noqa: F401

from ad_assets.cli import main
from tests.support.places import REPOSITORY


class Template:
    """A process that was forked before the first test, to be forked on request for the rest of the session.

    A fork of a process with threads inherits the locks that these hold, and no thread that would ever let go of them.
    After the first tests there are such threads, in pools of libraries; when the tests have been imported, none.

    Raises:
        RuntimeError: there are some already.
    """

    def __init__(self) -> None:
        if names := [each.name for each in threading.enumerate() if each is not threading.main_thread()]:
            raise RuntimeError(
                f"no process can be forked safely any more: importing the tests started threads, {names}"
            )
        self._line, other = multiprocessing.Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            self._line.close()
            _fork_on_request(other)
        other.close()

    def begin(self, call: Callable[[], int], output: Path, environ: Mapping[str, str]) -> int:
        """The id of a new process that calls a function."""
        return self._ask((cloudpickle.dumps(call), output, environ))

    def status(self, pid: int, how: int) -> int | None:
        """Exit status of one of its processes, None while it runs; `how` is that of `os.waitpid`."""
        return self._ask((pid, how))

    def end(self) -> None:
        """Let it end, and wait for that."""
        self._line.close()
        os.waitpid(self.pid, 0)

    def _ask(self, question: object) -> Any:
        try:
            self._line.send(question)
            answer = self._line.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("the process that is forked for tests has ended: something killed it") from error
        if isinstance(answer, OSError):
            raise answer
        return answer


_template: Template | None = None


def start_template() -> None:
    """Fork the template of this session, once all that tests import is imported."""
    global _template
    _template = Template()


def end_template() -> None:
    """Let it end, if this session has one."""
    if _template:
        _template.end()


class Forked:
    """A process that calls a function, leads a group of its own and ends with what is returned.

    It shares nothing with this one but what was loaded when the first test began: its environment, folder and output
    are its own, and the function and what that holds are copies. This is for tests of what processes do to one another
    and to a store; what a fresh interpreter loads is told by `subprocess`.

    Args:
        call: what it does; its exit status.
        output: the file to which its standard output and error are appended.
        environ: what its environment has beside that of this process.

    Raises:
        RuntimeError: the template has ended.
        OSError: it cannot be forked.
    """

    def __init__(
        self, call: Callable[[], int], output: Path, environ: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        assert _template is not None
        self._template = _template
        self.pid = self._template.begin(call, output, {**os.environ, **environ})
        self._status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs."""
        return self._waited(os.WNOHANG)

    def wait(self) -> int:
        """The same, once it has ended."""
        status = self._waited(0)
        assert status is not None
        return status

    def send(self, number: signal.Signals) -> None:
        """Send it, and all that it started, a signal, as Ctrl-C in a terminal does."""
        if self.poll() is None:
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """Kill it and all that it started, if it still runs, and wait for its end."""
        if self.poll() is None:
            self.send(signal.SIGKILL)
        self.wait()

    def _waited(self, how: int) -> int | None:
        if self._status is None:
            self._status = self._template.status(self.pid, how)
        return self._status


def command(arguments: Sequence[str], before: Callable[[], None] = lambda: None) -> Callable[[], int]:
    """What `Forked` calls to be the command line, which is interrupted as from a terminal.

    Args:
        arguments: those of the command.
        before: changes something in the other process first.
    """

    def call() -> int:
        before()
        sys.argv = ["ad-assets", *arguments]
        return main()

    return call


def _fork_on_request(line: Connection) -> NoReturn:
    """Answer a function to call with the id of a process, and such an id with the status; to the end of the session."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the end of the line tells
    while True:
        try:
            question = line.recv()
        except EOFError:
            os._exit(0)
        answer: int | OSError | None
        try:
            if len(question) == 2:
                pid, status = os.waitpid(*question)
                answer = os.waitstatus_to_exitcode(status) if pid else None
            else:
                answer = os.fork()
                os.setpgid(answer, answer or os.getpid())  # by both: whoever is first, it can be sent signals at once
                if not answer:
                    line.close()
                    _become(*question)
        except OSError as error:
            answer = error
        line.send(answer)


def _become(call: bytes, output: Path, environ: Mapping[str, str]) -> NoReturn:
    status = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with output.open("ab") as log:
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        os.environ.clear()
        os.environ.update(environ)
        os.chdir(REPOSITORY)
        status = cloudpickle.loads(call)()
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else 1
    except BaseException:  # noqa: BLE001 - nothing of the template may run on in its copy
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
