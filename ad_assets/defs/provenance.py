"""What an artifact was made of, by content: an address says which inputs, this says whether they are still those.

A state that was updated as images landed is fitted on all of them when it is damaged and made anew, at the address that
it had; a forced build may differ too. What was made of it before is then out of date, though no address has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ad_assets.benchmark import fingerprint
from resources.layout import TENSORS

MADE_OF = "made_of"  # in records and heads
ALL = "all"


def contents_of(record: Mapping[str, Any]) -> str:
    """What the tensors of an artifact are, by its record; of one without any, what it was made of.

    Other files follow from these, or tell of time. Empty: nothing can be told, or nothing can differ.
    """
    if "files" not in record:  # from before there were checksums
        return ""
    tensors = {name: checksum for name, (_, checksum) in record["files"].items() if name.endswith(TENSORS)}
    passed_on = sorted(set(record.get(MADE_OF, {}).values()))
    return fingerprint(tensors) if tensors else fingerprint(passed_on) if passed_on else ""


def made_of(inputs: Iterable[tuple[str, str, str]], *, jointly: bool) -> dict[str, str]:
    """What is made of some inputs now.

    Args:
        inputs: kind, version and contents of each.
        jointly: of many, in one word.
    """
    told = {f"{kind}/{version}": contents for kind, version, contents in inputs if contents}
    return {ALL: fingerprint(told)} if jointly and told else told


def is_outdated(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether an input has other contents than those that something was made of."""
    return any(before[name] != now[name] for name in before.keys() & now.keys())
