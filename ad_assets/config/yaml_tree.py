"""Text to a tree of plain values: YAML in which every name keeps its spelling, and nothing can hang or surprise.

Against YAML 1.1: keys are text whatever they look like (``01``, ``on``, ``null``, ``2024-01-01``), ``yes``, ``no``,
``on`` and ``off`` are text, whole numbers are decimal (``010`` is ten), and numbers remember how they were written, for
where a name is wanted. Duplicate keys, dates, tags, values that hold themselves, and values that aliases blow up are
refused. Messages name line and key, and never repeat the text, which may hold what is nobody's business.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from ad_assets.config.faults import ConfigError, shown
from ad_assets.config.spelling import WrittenFloat, WrittenInt

MOST_BYTES = 250_000
MOST_VALUES = 200_000  # with aliases written out
MOST_DEPTH = 30
MOST_DIGITS = 40
TEXT = "tag:yaml.org,2002:str"
_BOMS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32"}
_BOMS |= {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # after those of UTF-32, which begin alike


def decoded(data: bytes, origin: str) -> str:
    """The text of a file: UTF-8, or the encoding of its byte order mark.

    Raises:
        ConfigError: it is neither, or larger than any benchmark file.
    """
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{origin}: {len(data):,} bytes are no benchmark file (at most {MOST_BYTES:,})")
    encoding = next((name for mark, name in _BOMS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{origin}:{line}: not {encoding.upper()}: save the file as UTF-8 (in Windows editors: Save as, encoding "
            "UTF-8), or as UTF-16 with a byte order mark"
        ) from error


def read_tree(text: str, origin: str) -> Any:
    """The value that a YAML text stands for.

    Raises:
        ConfigError: it is not valid, or more than a benchmark file can be; with the line.
    """
    try:
        node = _composed(text)
        if node is None:
            return None
        loader = _UniqueKeyLoader("")
        _check(node, loader)
        return loader.construct_document(node)
    except ConfigError as error:
        raise ConfigError(f"{origin}{error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        remedy = ": is the indentation that of its neighbours?" if "block" in f"{error.problem}" else ""
        raise ConfigError(f"{origin}{where}: not valid YAML: {error.problem or error.context}{remedy}") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(f"{origin}:{line}: not valid YAML: the character {chr(error.character)!r}") from error
    except RecursionError as error:
        raise ConfigError(f"{origin}: nested too deeply (at most {MOST_DEPTH} levels)") from error


def read_value(text: str, origin: str) -> Any:
    """The value of an override: a list, a mapping or a quoted text as YAML has it, anything else as it stands.

    So ``/x #2`` is a path with a ``#`` in it, not ``/x`` and a comment.

    Raises:
        ConfigError: as `read_tree`.
    """
    try:
        node = _composed(text)
    except (yaml.YAMLError, RecursionError):
        return read_tree(text, origin)  # raises the error with its place
    plain = isinstance(node, yaml.ScalarNode) and node.style is None and node.value != text.strip()
    if plain or (node is None and text.lstrip().startswith("#")):
        return text.strip()
    return read_tree(text, origin)


class _UniqueKeyLoader(yaml.SafeLoader):
    """See the module."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f":{node.start_mark.line + 1}: expected a mapping")
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f":{key.start_mark.line + 1}: a key is a text, not a list or mapping")
            if key.value in seen:
                raise ConfigError(f":{key.start_mark.line + 1}: duplicate key {shown(key.value)}")
            seen.add(key.value)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}

    def whole(self, node: yaml.ScalarNode) -> WrittenInt:
        if len(node.value) > MOST_DIGITS:
            raise ConfigError(f":{node.start_mark.line + 1}: a number of {len(node.value):,} digits")
        return WrittenInt(node.value)

    def real(self, node: yaml.ScalarNode) -> WrittenFloat:
        return WrittenFloat(self.construct_yaml_float(node), node.value)

    def refused(self, node: yaml.Node) -> None:
        tag = shown(node.tag.rpartition(":")[2])
        raise ConfigError(f":{node.start_mark.line + 1}: the tag {tag} means nothing here")


def _set_up() -> None:
    for tag, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+", list("-+0123456789")),
        # As PyYAML has them but for base 60: an exponent needs its sign and its point.
        (
            "float",
            r"[-+]?([0-9][0-9_]*)\.[0-9_]*([eE][-+][0-9]+)?|\.[0-9][0-9_]*([eE][-+][0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            list("-+0123456789."),
        ),
        ("merge", "<<", ["<"]),
    ):
        _UniqueKeyLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), first)
    _UniqueKeyLoader.add_constructor("tag:yaml.org,2002:int", _UniqueKeyLoader.whole)
    _UniqueKeyLoader.add_constructor("tag:yaml.org,2002:float", _UniqueKeyLoader.real)
    for tag in ("binary", "timestamp", "omap", "pairs", "set"):
        _UniqueKeyLoader.add_constructor(f"tag:yaml.org,2002:{tag}", _UniqueKeyLoader.refused)


_set_up()


def _composed(text: str) -> yaml.Node | None:
    loader = _UniqueKeyLoader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        loader.dispose()


def _check(root: yaml.Node, loader: _UniqueKeyLoader) -> None:
    """Refuse what aliases blow up, what holds itself, what is nested too deeply, and tags that lie."""
    known: dict[int, tuple[int, int]] = {}
    open_nodes: set[int] = set()

    def measure(node: yaml.Node) -> tuple[int, int]:
        """Values and levels of a node, with aliases written out."""
        if id(node) in open_nodes:
            raise ConfigError(f":{node.start_mark.line + 1}: a value that holds itself")
        if id(node) not in known:
            open_nodes.add(id(node))
            children: list[yaml.Node] = []
            resolved = loader.resolve(type(node), getattr(node, "value", ""), (True, False))
            if isinstance(node, yaml.ScalarNode) and node.tag not in (TEXT, resolved):
                loader.refused(node)
            if isinstance(node, yaml.MappingNode):
                children = [each for pair in node.value for each in pair]
            elif isinstance(node, yaml.SequenceNode):
                children = node.value
            below = [measure(child) for child in children]
            known[id(node)] = 1 + sum(size for size, _ in below), 1 + max((depth for _, depth in below), default=0)
            open_nodes.remove(id(node))
        return known[id(node)]

    size, depth = measure(root)
    if size > MOST_VALUES:
        raise ConfigError(f": more than {MOST_VALUES:,} values, with aliases written out")
    if depth > MOST_DEPTH:
        raise ConfigError(f": nested too deeply (at most {MOST_DEPTH} levels)")
