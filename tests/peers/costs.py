"""What a command costs, measured from outside: wall time, processor time and peak memory of it and its children."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What one command took.

    Args:
        wall: seconds by the clock.
        cpu: processor seconds, of the system's work too.
        peak_mb: resident memory of its largest process, MB.
    """

    wall: float
    cpu: float
    peak_mb: float


def run(command: Sequence[str], folder: Path, log: Path, environ: Mapping[str, str]) -> Cost:
    """Run a command to its end (Linux).

    Raises:
        RuntimeError: it failed; the message ends with the last lines of its output.
    """
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=dict(environ), stdout=output, stderr=subprocess.STDOUT)
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)  # it is waited for: nobody else has to
    if process.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{last}")
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024 * 1.048576)
