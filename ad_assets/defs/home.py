"""The folder of Dagster's records and settings: ``DAGSTER_HOME``, else ``.dagster_home`` beside the benchmark file.

That of a shipped file lies in the working directory.
"""

from __future__ import annotations

import os
from pathlib import Path

from ad_assets.config.load import is_shipped
from ad_assets.store.local import write_whole

SHIPPED = Path(__file__).parents[1] / "dagster.yaml"


def open_home(source: str | Path) -> Path:
    """The folder, made if need be; one without settings gets a link to those that are shipped, so that edits count.

    Args:
        source: path of the benchmark file.
    """
    beside = Path() if is_shipped(source) else Path(source).parent
    home = Path(os.environ.get("DAGSTER_HOME") or beside / ".dagster_home").resolve()
    home.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(home)
    settings = home / "dagster.yaml"
    if not settings.is_file():  # a link whose end is gone is none either
        link = home / f".dagster.yaml.{os.getpid()}"
        try:
            link.symlink_to(SHIPPED)
            link.replace(settings)
        except OSError:  # a file system without links
            write_whole(settings, SHIPPED.read_bytes())
    return home
