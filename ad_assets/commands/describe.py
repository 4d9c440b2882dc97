"""``describe``: the settings of a method or reader, or the JSON schema of benchmark files for editors."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from pydantic_core import PydanticUndefined

from ad_assets.commands.common import Commands
from ad_assets.config.faults import check_name
from ad_assets.datasets import READERS
from ad_assets.methods import METHODS

WIDTH = 100


def add(commands: Commands) -> None:
    """Add the command."""
    text = "the settings of a method or reader: defaults, and what is built anew when they change"
    describe = commands.add("describe", _describe, text)
    describe.add_argument("name", nargs="?", help="method or reader; without one: the JSON schema of benchmark files")


def _describe(options: argparse.Namespace) -> int:
    if options.name is None:
        from ad_assets.config.schema import schema

        print(json.dumps(schema(), indent=1))
        return 0
    kinds: dict[str, Any] = {**METHODS, **READERS}
    check_name("method or reader", options.name, kinds)
    kind = kinds[options.name]
    print(f"{options.name}: {(kind.__doc__ or '').strip().splitlines()[0]}")
    for name, field in kind.model_fields.items():
        default = "required" if field.default is PydanticUndefined else json.dumps(field.get_default())
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        stage = f", read by {extra['stage']}" if "stage" in extra else ""
        print(f"\n{name} ({default}{stage})")
        if field.description:
            print(textwrap.indent(textwrap.fill(field.description, WIDTH), "  "))
    if presets := getattr(kind, "presets", None):
        print(f"\npresets: {', '.join(presets)}")
    return 0
