"""``serve`` and ``take-outbox``: a line's server on this computer, and what such servers elsewhere have put aside."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from typing import TYPE_CHECKING

from ad_assets.commands.common import Commands
from ad_assets.config.load import ConfigError, load_config
from ad_assets.store.store import ArtifactStore, CorruptArtifactError
from ad_assets_runtime.command import add_engine_options, add_server_options, run_server

if TYPE_CHECKING:
    from ad_assets.config.benchmark import Benchmark
    from ad_assets.prediction.line_outbox import Taken

TAKE_SECONDS = 5.0


def add(commands: Commands) -> None:
    """Add both commands."""
    serve = commands.add(
        "serve", _serve, "answer requests for the champions in the store, as a line's computer does", commands.shared
    )
    add_engine_options(serve)
    add_server_options(serve)
    take = commands.add(
        "take-outbox", _take, "take in inspections and feedback of computers of a line, each once", commands.shared
    )
    take.add_argument("outbox", help="their folder, or s3://bucket/prefix")
    take.add_argument("--every", type=float, metavar="SECONDS", help="go on, and look again after so many seconds")


class _StoreRoot:
    """The store as the root of champions."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store, self.name = store, store.root

    def list(self, prefix: str) -> dict[str, str]:
        """See `ad_assets_runtime.root_folder.RootFolder`."""
        return {file.path: file.stamp for file in self._store.files(prefix)}

    def read(self, path: str) -> bytes:
        """See there."""
        return self._store.fetch(path)

    def write(self, path: str, data: bytes) -> None:
        """See there."""
        self._store.write_bytes(path, data)


def _serve(options: argparse.Namespace) -> int:
    from ad_assets_runtime.champions import Champions

    benchmark = load_config(options.config, options.set)
    champions = Champions(
        _StoreRoot(benchmark.store), options.home / "cache", engine=options.engine, threads=options.threads
    )
    stop = threading.Event()
    own = str(options.home / "outbox")
    taker = threading.Thread(target=_take_until, args=(benchmark, own, stop), daemon=True)
    if not options.outbox:  # else what is put aside is for somebody else to take
        taker.start()
    try:
        return run_server(options, champions)
    except ImportError as error:
        raise ConfigError(f"{error}: pip install 'ad-assets[serve]'") from error
    finally:
        stop.set()
        if taker.ident:
            taker.join(60)


def _take_until(benchmark: Benchmark, outbox: str, stop: threading.Event) -> None:
    """Take in what the server of this process puts aside, the last of it when it has ended."""
    while True:
        ended = stop.wait(TAKE_SECONDS)
        try:
            _take_once(benchmark, outbox)
        except (OSError, CorruptArtifactError) as error:
            print(f"ad-assets: what was inspected waits in {outbox}: {error}", file=sys.stderr)
        if ended:
            return


def _take(options: argparse.Namespace) -> int:
    benchmark = load_config(options.config, options.set)
    while True:
        taken = _take_once(benchmark, options.outbox)
        if options.every is None:
            print(f"{taken.inspections} inspections and {taken.feedback} verdicts of people taken in")
            return 1 if taken.refused else 0
        time.sleep(options.every)


def _take_once(benchmark: Benchmark, outbox: str) -> Taken:
    from ad_assets.prediction.line_outbox import take_in

    taken = take_in(benchmark, outbox)
    for path, why in taken.refused.items():
        print(f"REFUSED {path}: {why}", file=sys.stderr)
    return taken
