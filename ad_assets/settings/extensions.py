"""Detectors, readers and metrics of other packages: modules that register them, named by entry points.

A package that says in its ``pyproject.toml``

    [project.entry-points."ad_assets.methods"]
    mine = "my_package.my_module"

needs no line here: its module is imported with our own, and its decorator does the rest.
"""

from __future__ import annotations

import logging
from importlib.metadata import entry_points

_LOG = logging.getLogger(__name__)


def load_extensions(group: str) -> None:
    """Import what entry points of a group name.

    One that cannot be imported is reported, and keeps nobody from using the others: what it would have registered is
    unknown to benchmark files, which are refused by name.
    """
    for point in entry_points(group=group):
        try:
            point.load()
        except Exception as error:  # noqa: BLE001 - whatever another package does
            whose, what = point.dist.name if point.dist else "an unknown package", type(error).__name__
            _LOG.warning("%s %r of %s cannot be imported: %s: %s", group, point.name, whose, what, error)
