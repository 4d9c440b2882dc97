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


@dg.logger
def terminal_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """The logger that command-line runs choose."""
    del context
    logger = logging.Logger("ad_assets.terminal", logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Short())
    handler.addFilter(lambda record: record.levelno > logging.INFO or not is_watched())
    logger.addHandler(handler)
    return logger


TERMINAL_RUN_CONFIG: dict[str, Any] = {"loggers": {"terminal": {"config": {}}}}
