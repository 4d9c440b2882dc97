"""Another process that has loaded all that this one has: a command begins at once in it, not after four seconds."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ad_assets.cli import main
from tests.support.places import REPOSITORY


class Forked:
    """A copy of this process that calls a function, leads a group of its own and ends with what is returned.

    It shares nothing with this one but what was loaded: its environment, folder and output are its own. What modules
    keep in memory it inherits, so this is for tests of what processes do to one another and to a store; what a fresh
    interpreter loads is told by `subprocess`.

    Args:
        call: what it does; its exit status.
        output: the file to which its standard output and error are appended.
        environ: what its environment has beside that of this process.
    """

    def __init__(
        self, call: Callable[[], int], output: Path, environ: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        self._status: int | None = None
        if not self.pid:
            _become(call, output, environ)

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
            pid, status = os.waitpid(self.pid, how)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
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


def _become(call: Callable[[], int], output: Path, environ: Mapping[str, str]) -> None:
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with output.open("ab") as log:
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        os.environ.update(environ)
        os.chdir(REPOSITORY)
        status = call()
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else 1
    except BaseException:  # noqa: BLE001 - nothing of this process may run on in its copy
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
