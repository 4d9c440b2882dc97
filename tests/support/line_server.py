"""A real server of a line on loopback, in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.dev_server import free_port


class LineServer:
    """`python -m ad_assets_runtime serve`; a context manager.

    Args:
        source: what it serves.
        home: its folder.
        options: further options.
        environ: further variables.
    """

    module = "ad_assets_runtime"

    def __init__(self, source: Path, home: Path, *options: str, **environ: str) -> None:
        self.port, self._log = free_port(), home.with_suffix(".log")
        command = [sys.executable, "-m", self.module, *self.command(source, home)]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environ}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--poll", "0.2", "--threads", "1", *options],
                env=variables,
                stdout=log,
                stderr=log,
            )

    def command(self, source: Path, home: Path) -> list[str]:
        """What it is started with, ahead of further options."""
        return ["serve", str(source), "--home", str(home)]

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 60
        while True:
            try:
                self.ask("GET", "/v2/health/live")
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"no answer: {self.log}")
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """What it printed."""
        return self._log.read_text()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def connect(self) -> http.client.HTTPConnection:
        """A connection, which may be kept for many requests."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(
        self, method: str, path: str, body: bytes | None = None, connection: Any = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (parsed where it is JSON) and headers of an answer; ``Content_Type`` is a header's name."""
        used = connection or self.connect()
        used.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = used.getresponse()
        data, got = answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        if connection is None:
            used.close()
        return answer.status, json.loads(data) if "json" in got.get("content-type", "") else data, got

    def memory(self) -> int:
        """Bytes in memory that are its own."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))) * 1024


def until(true: Any, seconds: float = 20.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail("it did not come about in time")
        time.sleep(0.02)
