"""What an artifact was made of, by content: an address says which inputs, this says whether they are still those.

A state that was updated as images landed is fitted on all of them when it is damaged and made anew, at the address that
it had; a forced build may differ too; features that an earlier release stored under the id of other bytes are made
anew. What was made of them before is then out of date, though no address has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ad_assets.config.benchmark import fingerprint
from ad_assets.store.layout import TENSORS

MADE_OF = "made_of"  # in records and heads
REMADE = "remade"  # in the metadata of features: images whose features were those of other bytes
ALL = "all"


def contents_of(record: Mapping[str, Any]) -> str:
    """What the tensors of an artifact are, by its record; of one without any, what it was made of.

    Other files follow from these, or tell of time. Empty: nothing can be told, or nothing can differ. Beginning with
    `REMADE`: it rests on features that were those of other bytes, so what does not know of it is out of date.
    """
    if "files" not in record:  # from before there were checksums
        return ""
    tensors = {name: checksum for name, (_, checksum) in record["files"].items() if name.endswith(TENSORS)}
    passed_on = sorted(set(record.get(MADE_OF, {}).values()))
    remade = record["metadata"].get(REMADE, [])
    contents = fingerprint(tensors) if tensors else fingerprint([passed_on, remade]) if passed_on or remade else ""
    return _marked(contents, bool(remade) or any(map(is_remade, passed_on)))


def made_of(inputs: Iterable[tuple[str, str, str]], *, jointly: bool) -> dict[str, str]:
    """What is made of some inputs now.

    Args:
        inputs: kind, version and contents of each.
        jointly: of many, in one word.
    """
    told = {f"{kind}/{version}": contents for kind, version, contents in inputs if contents}
    return {ALL: _marked(fingerprint(told), any(map(is_remade, told.values())))} if jointly and told else told


def is_outdated(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether an input has other contents than those that something was made of; of old records not all are known."""
    return any(before.get(name, "" if is_remade(told) else told) != told for name, told in now.items())


def is_remade(contents: str) -> bool:
    """Whether contents rest on features that were those of other bytes."""
    return contents.startswith(REMADE)


def _marked(contents: str, remade: bool) -> str:
    return f"{REMADE}-{contents}" if remade else contents
