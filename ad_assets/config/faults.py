"""Checks of values that people write, which collect every fault instead of stopping at the first."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from ad_assets.config.spelling import spelling

MOST_CHARACTERS = 2000  # of a message
MOST_SHOWN = 120  # characters of a value in it
NAME = re.compile(r"[a-z0-9_]{1,100}")

ModelT = TypeVar("ModelT", bound=BaseModel)


class ConfigError(ValueError):
    """The benchmark file is wrong; the message lists the faults, each with its key path and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= MOST_CHARACTERS else f"{message[: MOST_CHARACTERS - 4]} ...")


def shown(value: object, most: int = MOST_SHOWN) -> str:
    """A value as messages show it: as Python writes it, and of one with more characters the beginning."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]} ..."


def key_text(key: object) -> str:
    """A key as messages show it: bare, or in quotes where it is long or holds what cannot be seen."""
    text = str(key)
    return text if text.isprintable() and len(text) <= MOST_SHOWN else shown(text)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``did you mean 'sigma'? ``, after the closest of some names; empty where none is close."""
    return "".join(f"did you mean {each!r}? " for each in difflib.get_close_matches(name[:100], list(names), n=1))


def check_name(what: str, name: str, names: Iterable[str], whose: str = "") -> None:
    """Refuse a name that is none of those of a kind.

    Raises:
        ConfigError: with a close one, and all that there are.
    """
    known = list(names)
    if name not in known:
        there = f"{'it has' if whose else 'there are'}: {', '.join(known) or 'none'}"
        raise ConfigError(f"{f'{whose} has ' if whose else ''}no {what} {name!r}; {did_you_mean(name, known)}{there}")


def fault_list(head: str, faults: Sequence[str]) -> str:
    """The message of several faults: as many as it can hold, then how many more there are."""
    lines = [f"{head} has {len(faults)} fault(s):"]
    room = MOST_CHARACTERS - len(lines[0]) - 40
    for fault in faults:
        line = fault if len(fault) <= 600 else f"{fault[:600]} ..."
        room -= len(line) + 3
        if room < 0:
            lines.append(f"... and {len(faults) - len(lines) + 1} more")
            break
        lines.append(line)
    return "\n  ".join(lines)


class Checker:
    """`faults` holds what was found, each with the path of its key and the remedy."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def model(self, model: type[ModelT], section: object, path: str, also: Sequence[str] = ()) -> ModelT | None:
        """A model of a section, from which the keys in `also` were taken out; None if it has faults."""
        values = self.mapping({} if section is None else section, path)
        try:
            return _validated(model, values)
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                place = ".".join([path, *map(key_text, fault["loc"])])
                if fault["type"] == "extra_forbidden":
                    self._unknown(str(fault["loc"][-1]), _keys(model, fault["loc"], also), place)
                elif fault["type"] == "missing":
                    self.faults.append(f"{place}: is required")
                else:
                    message = fault["msg"].removeprefix("Value error, ")
                    # Nobody needs a whole section again, and options of a store are nobody's business.
                    hidden = not fault["loc"] or "storage_options" in place or "://" in str(fault["input"])
                    got = "" if hidden else f" (got {shown(fault['input'])})"
                    self.faults.append(f"{place}: {message}{got}")
            return None

    def mapping(self, section: object, path: str) -> dict[str, Any]:
        """A copy of a section; empty if it is none."""
        if isinstance(section, Mapping):
            return dict(section)
        got = type(section).__name__ if path in ("", "store") else shown(section)
        self.faults.append(f"{path}: expected a mapping of keys to values (got {got})")
        return {}

    def section(self, options: dict[str, Any], key: str, path: str) -> dict[str, Any]:
        """A section within another, taken out of it; empty where it is not there."""
        inner = options.pop(key, None)
        return self.mapping({} if inner is None else inner, f"{path}.{key}")

    def named(self, tree: dict[str, Any], section: str) -> Iterable[tuple[str, object]]:
        """The entries of a section whose names are names."""
        entries = self.mapping({} if tree.get(section) is None else tree[section], section)
        return [(name, value) for name, value in entries.items() if self.name(name, section)]

    def name(self, name: object, path: str) -> bool:
        """Whether a text can be a name."""
        if isinstance(name, str) and NAME.fullmatch(name):
            return True
        self.faults.append(f"{path}.{key_text(name)}: names are lower-case letters, digits and underscores, up to 100")
        return False

    def only(self, tree: Mapping[str, Any], allowed: Iterable[str], path: str) -> None:
        """Find keys that are not allowed."""
        for key in tree:
            if key not in allowed:
                self._unknown(str(key), allowed, f"{path}{key_text(key)}")

    def choice(self, value: object, choices: Mapping[str, Any], path: str) -> Any:
        """The choice that a text names; None if it names none."""
        value = spelling(value)
        if isinstance(value, str) and value in choices:
            return choices[value]
        problem = "is required" if value is None else f"unknown value {shown(value)}"
        self.faults.append(f"{path}: {problem}; choose from: {', '.join(choices) or 'none defined'}")
        return None

    def _unknown(self, key: str, allowed: Iterable[str], place: str) -> None:
        self.faults.append(f"{place}: unknown key; {did_you_mean(key, allowed)}allowed: {', '.join(sorted(allowed))}")


def _keys(model: type[BaseModel], place: Sequence[int | str], also: Sequence[str]) -> list[str]:
    """The keys that are allowed at a place in a model and in the models of its fields."""
    for step in place[:-1]:
        field = model.model_fields.get(str(step))  # none: a name that people choose
        inner = _model_within(field.annotation) if field else None
        model = inner or model
    return [*model.model_fields, *(also if len(place) == 1 else ())]


def _model_within(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_within, get_args(annotation))), None)


def _validated(model: type[ModelT], values: dict[str, Any]) -> ModelT:
    """A model of values, in which numbers stand as they were written where a text is wanted.

    Raises:
        ValidationError: they are wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        spelt = values
        for fault in error.errors(include_url=False):
            if fault["type"] == "string_type" and isinstance(text := spelling(fault["input"]), str):
                spelt = _replaced(spelt, fault["loc"], text)
        if spelt is values:
            raise
        return model.model_validate(spelt)


def _replaced(value: Any, place: Sequence[int | str], text: str) -> Any:
    """A value with a text at a place in it; steps that are none of its keys name the branch of a union."""
    if not place:
        return text
    step, *below = place
    if isinstance(value, Mapping) and step in value:
        return {**value, step: _replaced(value[step], below, text)}
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return [*value[:step], _replaced(value[step], below, text), *value[step + 1 :]]
    return _replaced(value, below, text)
