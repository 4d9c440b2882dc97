"""The run log as short lines for a terminal: what the assets say, warnings and errors; not Dagster's own events."""

from __future__ import annotations

import logging
import sys
from typing import Any

import dagster as dg

from ad_assets.graph.progress import is_watched


class _Short(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", None) or {}
        message = meta.get("orig_message") or record.getMessage()
        return f"{self.formatTime(record, '%H:%M:%S')} {message}"


def _is_told(record: logging.LogRecord) -> bool:
    """Whether a record is for the terminal: of what Dagster tells, which step failed, and not what follows from it."""
    meta = getattr(record, "dagster_meta", {})
    event = meta.get("dagster_event")
    if event:
        return bool(event.is_step_failure)
    if str(meta.get("orig_message")).startswith("Dependencies for step"):
        return False
    return record.levelno > logging.INFO or not is_watched()


@dg.logger
def terminal_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """The logger that command-line runs choose."""
    del context
    logger = logging.Logger("ad_assets.terminal", logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Short())
    handler.addFilter(_is_told)
    logger.addHandler(handler)
    return logger


TERMINAL_RUN_CONFIG: dict[str, Any] = {"loggers": {"terminal": {"config": {}}}}
