"""``ad-assets``: the few commands that Dagster does not have, thin over its API."""

from __future__ import annotations

import argparse
import gc
import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from ad_assets.interrupts import INTERRUPTED, run_interruptibly

# Command -> the module of `ad_assets.commands` that has it; no other is imported.
MODULES = {
    **dict.fromkeys(("demo", "materialize", "status"), "graph"),
    "init": "init",
    "dev": "dev",
    "table": "table.command",
    "predict": "predict",
    "latency": "latency",
    "inspections": "inspections",
    **dict.fromkeys(("history", "promote", "rollback", "quarantine"), "production"),
    "feedback": "feedback",
    **dict.fromkeys(("serve", "take-outbox"), "serve"),
    "data": "data",
    "bisect": "bisect",
    "explain": "explain",
    "export": "export",
    **dict.fromkeys(("doctor", "gc", "pack"), "upkeep"),
    "settings": "settings",
    "completion": "completion",
}
_BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 something failed, 2 the call or the benchmark file is invalid.

    Without `arguments` it takes those of this process, which then ends promptly when it is interrupted.
    """
    if arguments is not None:
        return _run(arguments)
    if sys.argv[1:2] in (["serve"], ["dev"]):  # which heed signals themselves, and end what is under way
        return _run(sys.argv[1:])
    # Imports make a million objects that stay: looking through them again and again takes a second.
    gc.set_threshold(10_000, 10, 10)
    return run_interruptibly(lambda: _run(sys.argv[1:]))


def _run(arguments: Sequence[str]) -> int:
    try:
        try:
            return _carry_out(arguments)
        finally:
            sys.stdout.flush()  # raises here, instead of at exit, if the reader has closed the pipe
    except BrokenPipeError:
        if not _without_readers():
            raise
        return _BROKEN_PIPE


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line, or of one command alone, whose module is then the only one that is imported."""
    from ad_assets.commands.common import Commands
    from ad_assets.commands.examples import show_examples

    commands = Commands(__doc__)
    for module in [MODULES[command]] if command in MODULES else dict.fromkeys(MODULES.values()):
        import_module(f"ad_assets.commands.{module}").add(commands)
    show_examples(commands.parser)
    commands.parser.set_defaults(whole_parser=parser)  # for `completion`, which knows all commands
    return commands.parser


def _carry_out(arguments: Sequence[str]) -> int:
    # Imported when signals are heeded: an interrupt in the first second shows no trace.
    from ad_assets.config.faults import ConfigError, check_name

    if not arguments:
        parser().print_help(sys.stderr)
        return 2
    try:
        if not arguments[0].startswith("-"):
            check_name("command", arguments[0], MODULES)
        options = parser(arguments[0]).parse_args(arguments)
        return int(options.run(options))
    except ConfigError as error:
        print(f"ad-assets: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:  # of a store or a folder, which it names
        print(f"ad-assets: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError, ValueError) as error:
        from ad_assets.datasets import DatasetError
        from ad_assets.graph.out_of_memory import is_out_of_memory, shortage
        from ad_assets.store.store import CorruptArtifactError

        if isinstance(error, (DatasetError, CorruptArtifactError)):
            print(f"ad-assets: {error}", file=sys.stderr)
            return 1
        if not is_out_of_memory(error):
            raise
        print(f"ad-assets: {shortage(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130


def _without_readers() -> bool:
    """Whether the reader of stdout or stderr has closed its pipe, as ``| head`` does; then nothing more is printed."""
    closed = []
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a stream without a file
            asked = select.poll()
            asked.register(stream.fileno(), 0)
            closed += [stream.fileno() for _, state in asked.poll(0) if state & select.POLLERR]
    for descriptor in closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return bool(closed)


if __name__ == "__main__":
    sys.exit(main())
