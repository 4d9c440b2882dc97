"""``ad-assets``: the few commands that Dagster does not have, thin over its API."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ad_assets.commands import data, export, graph, latency, predict, production, table, upkeep
from ad_assets.commands.common import Commands
from ad_assets.config import ConfigError
from ad_assets.storage import StorageError
from resources.disk import NoSpaceError
from resources.store import CorruptArtifactError, MissingFileError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 something failed, 2 the call or the file is wrong."""
    commands = Commands(__doc__)
    for module in (graph, table, predict, latency, production, data, export, upkeep):
        module.add(commands)
    options = commands.parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except ConfigError as error:
        print(f"ad-assets: {error}", file=sys.stderr)
        return 2
    except (StorageError, NoSpaceError, CorruptArtifactError, MissingFileError) as error:
        print(f"ad-assets: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "ad-assets: interrupted; what is finished is kept, run the command again to go on",
            file=sys.stderr,
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
