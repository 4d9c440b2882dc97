"""Every setting of a benchmark file: where it stands, what it means, its default and the values that it admits.

Read from the very schema that editors check files with, so that no setting is left out.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ad_assets.config.joint import Joint
from ad_assets.config.schema import schema
from ad_assets.datasets import READERS
from ad_assets.methods import METHODS
from ad_assets.methods.ensemble import Ensemble

LIMITS = {"minimum": ">= ", "exclusiveMinimum": "> ", "maximum": "<= ", "exclusiveMaximum": "< "}  # of a JSON schema
KINDS = {"datasets": "reader", "detectors": "method"}  # sections of several kinds -> the key that says which
NAME = "<name>"
MOST = 16  # values of a list that are named


@dataclass(frozen=True)
class Setting:
    """One key of a benchmark file.

    Args:
        section: the keys above it, as in ``datasets.<name>.detectors.<name>``; empty at the top.
        kind: the reader or the method whose setting it is; empty where all have it.
        name: the key.
        schema: JSON schema of its values, with description and default.
        required: whether it has no default.
        lacking: the methods or readers that do not have it, or have one of their own, though most do.
    """

    section: str
    kind: str
    name: str
    schema: Mapping[str, Any] = field(compare=False)
    required: bool
    lacking: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The readers or methods that it is the choice of; none for other keys."""
        return tuple(self.schema["enum"]) if self.name in KINDS.values() and not self.kind else ()

    @property
    def path(self) -> str:
        """Where it stands in the file."""
        return f"{self.section}.{self.name}".lstrip(".")

    @property
    def default(self) -> str:
        """The default as it is written in a file; empty where there is none."""
        return "" if self.required else json.dumps(self.schema.get("default", {}))

    @property
    def values(self) -> str:
        """The values that it admits, as far as a schema can say."""
        return values(self.schema)

    @property
    def description(self) -> str:
        """What it means."""
        return str(self.schema.get("description", ""))


@cache
def all_settings() -> tuple[Setting, ...]:
    """All settings, in the order of the file; those that all readers or methods have stand before those of each."""
    file = schema()
    return tuple(_settings("", [("", file)], file["$defs"]))


def summary(kind: str) -> str:
    """The first paragraph of a method's docstring; of a reader, of its module's, which tells of the dataset.

    Args:
        kind: name of the method or reader.
    """
    composed: dict[str, Any] = {Ensemble.name: Ensemble, Joint.name: Joint}
    documented = composed.get(kind) or METHODS.get(kind) or sys.modules[READERS[kind].__module__]
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def values(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema admits, as far as it says more than their type.

    >>> values({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})
    'integer >= 1 or null'
    >>> values({"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}})
    'list of number > 0'
    """
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(filter(None, map(values, schema["anyOf"]))))
    if "enum" in schema or "const" in schema:
        allowed = list(map(str, schema.get("enum", [schema.get("const")])))
        return ", ".join(allowed[:MOST] + ([f"... {len(allowed)} in all"] if allowed[MOST:] else []))
    kind = schema.get("type", "")
    if kind == "array":
        inner = values(schema.get("items") or (schema.get("prefixItems") or [{}])[0])
        return f"list of {inner}" if inner else "list"
    if kind == "object":
        return "keys with values"
    limits = [f"{sign}{_number(schema[key])}" for key, sign in LIMITS.items() if key in schema]
    return " ".join([{"string": "text", "boolean": "true, false"}.get(kind, kind), ", ".join(limits)]).strip()


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _settings(
    section: str, models: list[tuple[str, Mapping[str, Any]]], models_by_name: Mapping[str, Any]
) -> Iterator[Setting]:
    """The settings of a section, and those of the sections in it.

    Args:
        section: its path.
        models: its schemas by the name of the reader or method; elsewhere one, without a name.
        models_by_name: all of them.
    """
    key = KINDS.get(section.removesuffix(f".{NAME}").rpartition(".")[2], "")
    seen = dict.fromkeys(name for _, model in models for name in model["properties"])
    inner: dict[str, dict[str, Mapping[str, Any]]] = {}
    own: list[Setting] = []
    for name in seen:
        having = {kind: model["properties"][name] for kind, model in models if name in model["properties"]}
        required = any(name in model.get("required", ()) for _, model in models)
        # That of most of them: a blind dataset, for one, tells of its root otherwise.
        first = max(having.values(), key=lambda one: sum(each == one for each in having.values()))
        alike = [kind for kind, each in having.items() if each == first]
        below = [(f"{section}.{name}{more}".lstrip("."), model) for more, model in _sections(first)]
        for place, model in below:
            inner.setdefault(place, {})[model] = models_by_name[model]
        if name == key:
            yield Setting(section, "", name, {"enum": sorted(having), "description": f"which {key}"}, True)
        elif below:
            continue
        elif len(models) == 1 or 2 * len(alike) > len(models):
            yield Setting(section, "", name, first, required, tuple(kind for kind, _ in models if kind not in alike))
        if len(models) > 1 and name != key:
            shared = alike if 2 * len(alike) > len(models) else []
            own += [
                Setting(section, kind, name, each, name in dict(models)[kind].get("required", ()))
                for kind, each in having.items()
                if kind not in shared
            ]
    kinds = [kind for kind, _ in models]
    yield from sorted(own, key=lambda each: kinds.index(each.kind))
    for place, named in inner.items():
        kinds_below = [(name.partition("_")[2] if len(named) > 1 else "", model) for name, model in named.items()]
        yield from _settings(place, kinds_below, models_by_name)


def _sections(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The names of the models that a key's schema leads to, with what stands between the key and their own."""
    if "$ref" in schema:
        yield "", schema["$ref"].rpartition("/")[2]
    for each in schema.get("anyOf", ()):
        yield from _sections(each)
    if isinstance(schema.get("additionalProperties"), Mapping):
        yield from ((f".{NAME}{more}", model) for more, model in _sections(schema["additionalProperties"]))
