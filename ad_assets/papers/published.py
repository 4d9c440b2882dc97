"""The papers' printed numbers, so that a leaderboard can stand beside them.

``paper_tables.json`` holds them in percent, as printed, with their source and with notes wherever a printed
number is doubtful or rests on another protocol. Here they are fractions under this project's metric names;
`aupro_0.30` is what the papers call PRO.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

TABLES = Path(__file__).with_name("paper_tables.json")
MEAN = "mean"


def systems() -> list[str]:
    """Names of all systems with published numbers, the papers' own first, baselines after."""
    return list(_tables()["systems"])


def datasets(system: str) -> list[str]:
    """The datasets for which a system has published numbers, as the papers spell them.

    Raises:
        ValueError: unknown system.
    """
    return list(_system(system)["tables"])


def published(system: str, dataset: str) -> dict[str, dict[str, float]]:
    """Published numbers of one system: metric -> category -> fraction 0..1.

    The category ``"mean"`` is the printed average, which a paper may give without its categories.

    Args:
        system: a name of `systems`.
        dataset: as the papers spell it, or in this project's spelling (``mvtec_ad`` finds ``MVTec AD``).

    Raises:
        ValueError: unknown system, or a dataset for which the system has no numbers.
    """
    tables = _system(system)["tables"]
    return {
        # Printed percentages have at most three decimals: rounding hides the division's binary noise.
        metric: {category: round(percent / 100, 6) for category, percent in row.items()}
        for metric, row in tables[_spelling(system, dataset)].items()
    }


def counts(system: str, dataset: str) -> dict[str, int]:
    """Test images of all categories that one system gets wrong at the threshold of the best F1, by metric.

    Args:
        system: a name of `systems`.
        dataset: as for `published`.

    Returns:
        ``misclassified``, ``false_positives`` and ``false_negatives``, as far as they are printed.

    Raises:
        ValueError: as `published`.
    """
    found: dict[str, int] = _system(system).get("counts", {}).get(_spelling(system, dataset), {})
    return dict(found)


def categories(dataset: str) -> set[str]:
    """All categories of a dataset that any table names; empty where only averages are published."""
    wanted = _plain(dataset)
    return {
        category
        for system in _tables()["systems"].values()
        for name, metrics in system["tables"].items()
        if _plain(name) == wanted
        for row in metrics.values()
        for category in row
        if category != MEAN
    }


def source(system: str) -> str:
    """Where the numbers of a system are printed.

    Raises:
        ValueError: unknown system.
    """
    return str(_system(system)["source"])


def notes(system: str, dataset: str) -> list[str]:
    """What a reader must know before comparing with a system's numbers: other protocols, misprints.

    Raises:
        ValueError: as `published`.
    """
    spelling = _spelling(system, dataset)
    return [
        f"{note['metric']}: {note['note']}" if "metric" in note else note["note"]
        for note in _tables()["notes"]
        if (note["system"], note["dataset"]) == (system, spelling)
    ]


def tables_fingerprint() -> str:
    """sha256 (64 hex digits) of the tables' file: a corrected number is a new version."""
    return hashlib.sha256(TABLES.read_bytes()).hexdigest()


@cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads(TABLES.read_text(encoding="utf-8"))
    return tables


def _system(name: str) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = _tables()["systems"]
    if name not in known:
        lowered = {system.lower(): system for system in known}
        close = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=5, cutoff=0.4)]
        hint = f"close names: {', '.join(close)}" if close else f"known: {', '.join(known)}"
        raise ValueError(f"no published numbers for a system called {name!r}; {hint}")
    return known[name]


def _spelling(system: str, dataset: str) -> str:
    """The dataset's name in the tables of a system."""
    names = datasets(system)
    for name in names:
        if _plain(name) == _plain(dataset):
            return name
    raise ValueError(f"{system} has no published numbers for {dataset!r}; it has: {', '.join(names)}")


def same_dataset(one: str | None, other: str) -> bool:
    """Whether two spellings name one dataset; None names none."""
    return one is not None and _plain(one) == _plain(other)


def _plain(dataset: str) -> str:
    return re.sub(r"[^a-z0-9]", "", dataset.lower())
