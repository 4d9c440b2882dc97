"""``dg dev``, its web server behind the guard.

`dg` starts the web server and the daemon as processes of their own, by the names of their modules. The first one is
replaced by ours; a third one, which some later release may start, is refused rather than left without a guard.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

from ad_assets.defs.dagster_internals import wrap_process_start

SERVER, DAEMON = "dagster_webserver", "dagster._daemon"
GUARDED = "ad_assets.ui.webserver"


def run(arguments: Sequence[str]) -> None:
    """Run until stopped, with arguments of ``dg dev``."""
    from dagster_dg_cli.cli.dev import dev_command

    def guarded(start: Callable[..., Any]) -> Callable[..., Any]:
        return lambda command, **options: start(guarded_command(command), **options)

    # A script's background job ignores it, and Dagster then SIGTERM too: nothing would end it but SIGKILL.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wrap_process_start(guarded)
    dev_command(arguments, prog_name="ad-assets dev")


def guarded_command(command: Sequence[str]) -> list[str]:
    """The command line of a process of ``dg dev``, with the guard where it serves the UI.

    Raises:
        RuntimeError: neither the web server nor the daemon.

    >>> guarded_command(["python", "-m", "dagster_webserver", "--port", "3000"])
    ['python', '-m', 'ad_assets.ui.webserver', '--port', '3000']
    """
    python, option, module, *arguments = command
    if option != "-m" or module not in (SERVER, DAEMON):
        raise RuntimeError(f"this release of Dagster starts {' '.join(command[:3])}, which no guard is known for")
    return [python, option, GUARDED if module == SERVER else module, *arguments]
