"""Detectors, readers and metrics of other packages: modules that register them, named by entry points.

A package that says in its ``pyproject.toml``

    [project.entry-points."ad_assets.methods"]
    mine = "my_package.my_module"

needs no change here: its module is imported with ours, and its decorator registers it.
"""

from __future__ import annotations

import logging
from importlib.metadata import entry_points

_LOG = logging.getLogger(__name__)


def load_extensions(group: str) -> None:
    """Import the modules that entry points of a group name.

    A failed import is logged and does not affect the others; benchmark files that use what it would have registered are
    refused.
    """
    for point in entry_points(group=group):
        try:
            point.load()
        except Exception as error:  # noqa: BLE001 - another package may raise anything
            whose, what = point.dist.name if point.dist else "an unknown package", type(error).__name__
            _LOG.warning("%s %r of %s cannot be imported: %s: %s", group, point.name, whose, what, error)
