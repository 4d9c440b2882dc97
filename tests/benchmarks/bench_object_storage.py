"""The demo on object storage that answers slowly, against a local folder: wall seconds, and requests by kind.

    python -m tests.benchmarks.bench_object_storage [MILLISECONDS] [CATEGORY ...]

The S3 server of the tests stands behind a proxy that lets each request wait. Both are processes of the same machine, so
that what they compute is in the figures of S3.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.conftest import S3_SERVER, s3_server
from tests.support.latency_proxy import LatencyProxy, latency_proxy
from tests.support.places import REPOSITORY

MILLISECONDS = 30.0
COMMANDS = (("first", "materialize"), ("nothing to do", "materialize"), ("status", "status"))


def command_seconds(folder: Path, command: str, categories: list[str], *sets: str) -> float:
    """Wall seconds of a command of the demo."""
    environ = {**os.environ, "DAGSTER_HOME": str(folder / "home")}
    settings = [f"datasets.demo.root={folder.parent / 'images'}", *sets]
    arguments = [part for value in settings for part in ("--set", value)]
    arguments += [part for category in categories for part in ("--category", category)]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "ad_assets.cli", command, "--config", "demo", *arguments],
        cwd=REPOSITORY,
        env=environ,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=1500,
    )
    return time.perf_counter() - started


def show(name: str, local: float, remote: float, proxy: LatencyProxy) -> None:
    """Print what a command took."""
    requests, counts = proxy.requests(), proxy.counts()
    proxy.forget()
    sent, received = (sum(getattr(each, way) for each in requests) / 1e6 for way in ("sent", "received"))
    print(
        f"{name}: local {local:.1f} s, S3 {remote:.1f} s; {len(requests)} requests, "
        f"{sent:.1f} MB written, {received:.1f} MB read"
    )
    by_verb: Counter[str] = Counter()
    for (verb, _), count in counts.items():
        by_verb[verb] += count
    for verb, count in by_verb.most_common():
        kinds = sorted(((own, kind) for (each, kind), own in counts.items() if each == verb), reverse=True)
        print(f"    {verb} {count}: " + ", ".join(f"{kind} {own}" for own, kind in kinds), flush=True)


def main(milliseconds: float, categories: list[str]) -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with (
        tempfile.TemporaryDirectory() as folder,
        s3_server(str(S3_SERVER), "-H", "127.0.0.1", "-p") as server,
        latency_proxy(server, milliseconds, "store") as proxy,
    ):
        import s3fs

        s3fs.S3FileSystem(endpoint_url=server).mkdir("bench")
        homes = [Path(folder, name) for name in ("local", "s3")]
        for home in homes:
            (home / "home").mkdir(parents=True)
        local, remote = homes
        store = ("store.root=s3://bench/store", f"store.storage_options.endpoint_url={proxy.endpoint}")
        proxy.forget()
        for name, command in COMMANDS:
            base = command_seconds(local, command, categories, f"store.root={local / 'store'}")
            show(name, base, command_seconds(remote, command, categories, *store), proxy)


if __name__ == "__main__":
    main(float((sys.argv[1:] or [MILLISECONDS])[0]), sys.argv[2:])
