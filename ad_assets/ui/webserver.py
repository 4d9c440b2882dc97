"""``python -m ad_assets.ui.webserver``: ``dagster-webserver`` with all its options, behind the guard."""

from __future__ import annotations

import os
from typing import Any

from dagster_webserver import cli

from ad_assets.ui.guard import Guard, names_in


def main() -> None:
    """Serve until stopped."""
    made = vars(cli)["create_app_from_workspace_process_context"]

    def guarded(*args: Any, **options: Any) -> Guard:
        return Guard(made(*args, **options), names_in(os.environ))

    vars(cli)["create_app_from_workspace_process_context"] = guarded
    cli.main()


if __name__ == "__main__":
    main()
