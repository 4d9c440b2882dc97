"""Checks of values that people write, which collect every fault instead of stopping at the first."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

NAME_PATTERN = r"^[a-z0-9_]+$"

ModelT = TypeVar("ModelT", bound=BaseModel)


class ConfigError(ValueError):
    """The benchmark file is wrong; the message lists every fault with its key path and the remedy."""


class Checker:
    """`faults` holds what was found, each with the path of its key and the remedy."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def model(self, model: type[ModelT], section: object, path: str) -> ModelT | None:
        """A model of a section; None if it has faults."""
        values = self.mapping({} if section is None else section, path)
        try:
            return model.model_validate(values)
        except ValidationError as error:
            for fault in error.errors():
                place = ".".join([path, *map(str, fault["loc"])])
                if fault["type"] == "extra_forbidden":
                    self._unknown(str(fault["loc"][-1]), model.model_fields, place)
                elif fault["type"] == "missing":
                    self.faults.append(f"{place}: is required")
                else:
                    message = fault["msg"].removeprefix("Value error, ")
                    self.faults.append(f"{place}: {message} (got {fault['input']!r})")
            return None

    def mapping(self, section: object, path: str) -> dict[str, Any]:
        """A copy of a section; empty if it is none."""
        if isinstance(section, Mapping):
            return dict(section)
        self.faults.append(f"{path}: expected a mapping of keys to values (got {section!r})")
        return {}

    def named(self, tree: dict[str, Any], section: str) -> Iterable[tuple[str, object]]:
        """The entries of a section whose names are names."""
        entries = self.mapping(tree.get(section) or {}, section)
        return [(name, value) for name, value in entries.items() if self.name(name, section)]

    def name(self, name: object, path: str) -> bool:
        """Whether a text can be a name."""
        if isinstance(name, str) and re.match(NAME_PATTERN, name):
            return True
        self.faults.append(f"{path}.{name}: names are lower-case letters, digits and underscores")
        return False

    def only(self, tree: Mapping[str, Any], allowed: Iterable[str], path: str) -> None:
        """Find keys that are not allowed."""
        for key in tree:
            if key not in allowed:
                self._unknown(str(key), allowed, f"{path}{key}")

    def choice(self, value: object, choices: Mapping[str, Any], path: str) -> Any:
        """The choice that a text names; None if it names none."""
        if isinstance(value, str) and value in choices:
            return choices[value]
        problem = "is required" if value is None else f"unknown value {value!r}"
        self.faults.append(f"{path}: {problem}; choose from: {', '.join(choices) or 'none defined'}")
        return None

    def _unknown(self, key: str, allowed: Iterable[str], place: str) -> None:
        close = difflib.get_close_matches(key, list(allowed), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        self.faults.append(f"{place}: unknown key; {hint}allowed: {', '.join(sorted(allowed))}")
