"""Channels and reductions of the stages of the usual architectures, known without importing torch or timm."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def tap_table() -> dict[str, dict[str, tuple[int, int]]]:
    """Channels and reduction of the stages of the usual architectures, each shallow to deep."""
    table = json.loads(Path(__file__).with_name("backbone_taps.json").read_text(encoding="utf-8"))
    return {
        architecture: {tap: (channels, reduction) for tap, (channels, reduction) in taps.items()}
        for architecture, taps in table.items()
    }
