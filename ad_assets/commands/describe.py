"""``describe``: the settings of a method or a reader, with their defaults and what a changed one rebuilds."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import textwrap
from typing import Any

from ad_assets.commands.common import Commands
from ad_assets.config.faults import check_name
from ad_assets.datasets import READERS, Reader
from ad_assets.methods import METHODS
from ad_assets.metrics.catalogue import METRICS
from ad_assets.settings.model import Settings

WIDTH = 110
LIMITS = {"minimum": ">= ", "exclusiveMinimum": "> ", "maximum": "<= ", "exclusiveMaximum": "< "}  # of a JSON schema


def add(commands: Commands) -> None:
    """Add the command."""
    text = (
        "settings of a method or a reader: defaults, ranges, what a changed one rebuilds; without a name, all there are"
    )
    describe = commands.add("describe", _describe, text)
    describe.add_argument("name", nargs="?", help="a method or a reader, as benchmark files name it")
    describe.add_argument("--schema", action="store_true", help="the JSON schema of benchmark files, for editors")


def _describe(options: argparse.Namespace) -> int:
    if options.schema:
        from ad_assets.config.schema import schema

        print(json.dumps(schema(), indent=1))
        return 0
    if options.name is None:
        for title, models in (("methods", METHODS), ("readers", READERS)):
            print(f"{title}\n{_list({name: _summary(model) for name, model in models.items()})}\n")
        print(f"metrics\n{_list({name: metric.heading_with_unit for name, metric in METRICS.items()})}")
        return 0
    check_name("method or reader", options.name, [*METHODS, *READERS])
    method = METHODS.get(options.name)
    model: type[Settings] = method or READERS[options.name]
    print(f"{options.name}, {'method' if method else 'reader'}: {_summary(model)}\n")
    if method:
        print(f"fit: a changed value rebuilds {method.state_asset}; match: neighbours; score: score_maps\n")
    properties = model.model_json_schema()["properties"]
    rows = {}
    for name, field in properties.items():
        facts = [f"default {json.dumps(field['default'])}" if "default" in field else "required", _values(field)]
        stage = [field["stage"]] if "stage" in field else []
        rows[name] = "; ".join([*stage, *filter(None, facts), *filter(None, [field.get("description")])])
    print(_list(rows))
    if method and method.presets:
        print(f"\npresets: {', '.join(method.presets)}")
    return 0


def _summary(model: type[Settings]) -> str:
    """The first paragraph of a method's docstring; of a reader, of its module's, which tells of the dataset."""
    documented = sys.modules[model.__module__] if issubclass(model, Reader) else model
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def _values(schema: dict[str, Any]) -> str:
    """The values that a JSON schema admits, as far as it says more than their type.

    >>> _values({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})
    'integer >= 1 or null'
    """
    if "anyOf" in schema:
        return " or ".join(filter(None, map(_values, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    limits = [f"{sign}{schema[key]}" for key, sign in LIMITS.items() if key in schema]
    return " ".join([schema.get("type", ""), ", ".join(limits)]).strip()


def _list(texts: dict[str, str]) -> str:
    """Names with their texts, which go on below themselves."""
    indent = max(map(len, texts)) + 4
    return "\n".join(
        textwrap.fill(text, WIDTH, initial_indent=f"  {name}".ljust(indent), subsequent_indent=" " * indent)
        for name, text in texts.items()
    )
