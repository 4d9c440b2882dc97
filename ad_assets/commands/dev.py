"""``dev``: the Dagster UI and its daemon for a benchmark file, from any folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ad_assets.commands.common import Commands
from ad_assets.config.benchmark import Benchmark
from ad_assets.config.load import DEFAULT, ENV_FILE, ENV_PREFIX, find_file, is_shipped, load_config
from ad_assets.config.paths import fixed

# What `dg dev` asks a project for, beside a module with a folder of definitions. Its processes run in the folder.
PROJECT = """\
[tool.dg]
directory_type = "project"
[tool.dg.cli]
suppress_warnings = ["project_and_activated_venv_mismatch"]
telemetry = {enabled = false}
[tool.dg.project]
root_module = "of_the_ui"
code_location_target_module = "ad_assets.definitions"
code_location_name = "ad_assets"
"""


def add(commands: Commands) -> None:
    """Add the command."""
    dev = commands.add("dev", _dev, "the Dagster UI and its daemon, on loopback, until they are stopped")
    dev.add_argument("--config", help=f"benchmark file, or the name of a shipped one (default: {ENV_FILE}, demo)")
    dev.add_argument("-p", "--port", type=int, default=3000, help="default: 3000")


def _dev(options: argparse.Namespace) -> int:
    from ad_assets.defs.home import open_home
    from ad_assets.store.local import write_whole
    from ad_assets.ui.dev import run

    file = Path(os.path.abspath(find_file(str(options.config or os.environ.get(ENV_FILE) or DEFAULT))))  # noqa: PTH100 - links stay
    benchmark = load_config(file)  # a fault is told at once, and not in the UI
    os.environ |= {ENV_FILE: str(file)} | _fixed_paths(benchmark if is_shipped(file) else None)
    project = open_home(file) / "ui"
    write_whole(project / "pyproject.toml", PROJECT.encode())
    write_whole(project / "of_the_ui" / "defs" / "__init__.py", b"")
    run(["--target-path", str(project), "-h", "127.0.0.1", "-p", str(options.port)])
    return 0


def _fixed_paths(shipped: Benchmark | None) -> dict[str, str]:
    """Variables of what begins in the working directory, which is not that of the processes.

    That is what was typed, and the roots of a shipped file.
    """
    roots = {}
    if shipped:
        roots["store.root"] = shipped.store.root
        roots |= {f"datasets.{name}.root": each.reader.root for name, each in shipped.datasets.items()}
    typed = {
        name.removeprefix(ENV_PREFIX).lower().replace("__", "."): value
        for name, value in os.environ.items()
        if name.startswith(ENV_PREFIX)
    }
    return {
        ENV_PREFIX + key.upper().replace(".", "__"): path
        for key, value in (roots | typed).items()
        if (path := fixed(key, value)) != value
    }
