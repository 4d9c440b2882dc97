"""The Ray that extracts features: one of this process's own, on loopback of this machine, or a cluster."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ad_assets.graph.stage import StageError
from ad_assets.interrupts import when_interrupted
from ad_assets.settings.compute import Compute
from ad_assets.settings.extract import LOCAL, Extract

STORE_SHARE = 1e9 / 4  # bytes a GB of the budget: decoded images on their way to the actors of a Ray of our own
LOOPBACK = "127.0.0.1"
SMALLEST_STORE = 100_000_000  # bytes, about what Ray takes at least

_connection = ExitStack()  # of this process: left when it ends, or asks for another Ray
_address = ""


def connected(extract: Extract, compute: Compute) -> Any:
    """The module ``ray``, connected; it stays so until the process ends, so that many categories start Ray once.

    A Ray of our own listens on loopback, asks for a token that only its processes have, has no dashboard and sends no
    usage statistics.

    Raises:
        StageError: Ray is not installed, or does not answer.
    """
    global _address
    if _address != extract.address:
        _connection.close()
        _set_up(local=extract.address == LOCAL)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise StageError(
            f"extract.engine: ray needs packages that are not installed ({error}): pip install 'ad-assets[ray]', or "
            "write engine: process"
        ) from error
    if not (_address == extract.address and ray.is_initialized()):
        _quiet()
        try:
            (_start if extract.address == LOCAL else _join)(ray, extract, compute)
        except (OSError, RuntimeError, ValueError, AssertionError, ImportError, ray.exceptions.RayError) as error:
            raise StageError(
                f"extract.address: Ray at {extract.address} does not answer ({error}). Start it (ray start --head), "
                "write address: local, or engine: process"
            ) from error
        _address = extract.address
    return ray


def _set_up(*, local: bool) -> None:
    """Set what Ray reads when it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong comes as an exception, too
    if local:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # so that it listens on loopback, as on those systems
        # Asked for by a Ray that a process starts for itself; without one it would write a file for all of the user's.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _quiet() -> None:
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = None  # what one actor is handed stays whole


def _start(ray: Any, extract: Extract, compute: Compute) -> None:
    from ad_assets.kernels.parallel import threads

    del extract
    # Not below TMPDIR, which may be long: paths of sockets have 107 characters at most.
    short = "/tmp" if sys.platform != "win32" else None  # noqa: S108 - a folder of our own is made in it
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=short))
    _connection.callback(shutil.rmtree, folder, ignore_errors=True)
    ray.init(
        address=LOCAL,
        num_cpus=threads(),
        num_gpus=0 if compute.device == "cpu" else None,
        object_store_memory=max(SMALLEST_STORE, int(compute.memory_gb * STORE_SHARE)),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        _node_ip_address=LOOPBACK,
        _temp_dir=str(folder),
    )
    _stay(ray, folder)
    if ray.util.get_node_ip_address() != LOOPBACK:
        raise RuntimeError("it would listen to other machines, since this process had imported ray before")


def _join(ray: Any, extract: Extract, compute: Compute) -> None:
    del compute
    ray.init(address=extract.address, log_to_driver=False, logging_level=logging.CRITICAL)
    _stay(ray, None)


def _stay(ray: Any, folder: Path | None) -> None:
    """Keep the connection until the process ends. Ray's own watchers end its processes where this one is killed."""
    if folder:
        _connection.enter_context(when_interrupted(lambda: shutil.rmtree(folder, ignore_errors=True)))
    _connection.callback(_leave, ray)


def _leave(ray: Any) -> None:
    global _address
    _address = ""
    ray.shutdown()


atexit.register(_connection.close)
