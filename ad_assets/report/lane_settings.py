"""The settings of the lanes of a leaderboard, what all lanes share told once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ad_assets.papers.published import MEAN

if TYPE_CHECKING:
    from ad_assets.report.leaderboard import BoardRow

SEPARATOR = "; "
ALL = "all lanes"


def told_settings(rows: Sequence[BoardRow]) -> list[tuple[str, str]]:
    """Who has which settings: all lanes, each lane, and each category of a lane where it has others.

    Args:
        rows: of one leaderboard; those of earlier releases have none.
    """
    lanes: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.settings:
            lanes.setdefault(row.detector, {})[row.category] = row.settings
    usual = {lane: own.get(MEAN) or next(iter(own.values())) for lane, own in lanes.items()}
    shared = _shared(list(usual.values())) if len(usual) > 1 else []
    told = [(ALL, SEPARATOR.join(shared))] if shared else []
    for lane, own in lanes.items():
        told.append((lane, _less(usual[lane], shared)))
        told += [(f"{lane} [{name}]", _less(text, shared)) for name, text in own.items() if text != usual[lane]]
    return told


def row_settings(settings: Mapping[tuple[str, str], str], lane: str, category: str) -> str:
    """The settings of a row: those of its category, or of the lane; empty where they are not known."""
    return settings.get((lane, category)) or settings.get((lane, MEAN), "")


def _shared(texts: Sequence[str]) -> list[str]:
    first, *others = (text.split(SEPARATOR) for text in texts)
    return [part for part in first[1:] if all(part in other for other in others)]  # each tells its method itself


def _less(text: str, shared: Sequence[str]) -> str:
    return SEPARATOR.join(part for part in text.split(SEPARATOR) if part not in shared)
