"""``python -m ad_assets.ui.webserver``: ``dagster-webserver`` with all its options, behind the guard; and reports."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from dagster_webserver import cli

from ad_assets.defs.dagster_internals import wrap_web_application
from ad_assets.ui.guard import Guard, names_in
from ad_assets.ui.report_pages import ReportPages


def main() -> None:
    """Serve until stopped."""

    def guarded(make: Callable[..., Any]) -> Callable[..., Guard]:
        return lambda *args, **options: Guard(ReportPages(make(*args, **options)), names_in(os.environ))

    wrap_web_application(guarded)
    cli.main()


if __name__ == "__main__":
    main()
