"""The contents that an artifact was made from. An address says which inputs; this says whether they still are the same.

A rebuild at the same address may have other contents: a state that was updated as images landed is fitted on all of
them when it is rebuilt after damage; a forced build may differ; features that an earlier release stored under the id of
other bytes are extracted again. What was made from the old contents is then out of date, though no address has changed.
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
    """A fingerprint of the tensors of an artifact, from its record; without tensors, of what it was made from.

    Other files follow from these, or hold times. Empty: unknown, or nothing can differ. With the prefix `REMADE`: it
    rests on features that were those of other bytes, so that whatever was made before is out of date.
    """
    if "files" not in record:  # from before there were checksums
        return ""
    tensors = {name: checksum for name, (_, checksum) in record["files"].items() if name.endswith(TENSORS)}
    passed_on = sorted(set(record.get(MADE_OF, {}).values()))
    remade = record["metadata"].get(REMADE, [])
    contents = fingerprint(tensors) if tensors else fingerprint([passed_on, remade]) if passed_on or remade else ""
    return _marked(contents, bool(remade) or any(map(is_remade, passed_on)))


def made_of(inputs: Iterable[tuple[str, str, str]], *, jointly: bool) -> dict[str, str]:
    """The contents of some inputs, by kind and version.

    Args:
        inputs: kind, version and contents of each.
        jointly: one fingerprint for all, for assets of many inputs.
    """
    known = {f"{kind}/{version}": contents for kind, version, contents in inputs if contents}
    return {ALL: _marked(fingerprint(known), any(map(is_remade, known.values())))} if jointly and known else known


def is_outdated(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether an input has other contents than before; inputs that old records do not list count as unchanged."""
    return any(before.get(name, "" if is_remade(contents) else contents) != contents for name, contents in now.items())


def is_remade(contents: str) -> bool:
    """Whether contents rest on features that were those of other bytes."""
    return contents.startswith(REMADE)


def _marked(contents: str, remade: bool) -> str:
    return f"{REMADE}-{contents}" if remade else contents
