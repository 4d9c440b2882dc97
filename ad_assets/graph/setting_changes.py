"""Which settings differ between what an artifact was made under and what the benchmark file says now, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SHOWN = 3
MOST_CHARACTERS = 40
# Of the code of stages, methods and readers.
CODE = ("version", "stage_version")


def setting_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that differ, each with its old and new value; empty where none does or the old ones are unknown.

    A setting at its default may be left out on either side.

    >>> setting_changes({"coreset_ratio": 0.01, "layers": [2, 3]}, {"coreset_ratio": 0.02, "layers": [2, 3]})
    'coreset_ratio 0.01 -> 0.02'
    >>> setting_changes({"version": 1}, {"version": 2, "decision": {"false_alarm_rate": 0.05}})
    'decision.false_alarm_rate default -> 0.05, another release of the code'
    """
    if not before:
        return ""
    old, new = dict(_flat(before)), dict(_flat(now))
    differing = [name for name in dict.fromkeys([*new, *old]) if old.get(name) != new.get(name)]
    changed = [f"{name} {_shown(old, name)} -> {_shown(new, name)}" for name in differing if not _is_code(name)]
    if len(changed) > SHOWN:
        changed = [*changed[:SHOWN], f"{len(changed) - SHOWN} more"]
    if any(map(_is_code, differing)):
        changed.append("another release of the code")
    return ", ".join(changed)


def _is_code(name: str) -> bool:
    return name.rpartition(".")[2] in CODE


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _shown(settings: Mapping[str, Any], name: str) -> str:
    text = str(settings[name]) if name in settings else "default"
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."
