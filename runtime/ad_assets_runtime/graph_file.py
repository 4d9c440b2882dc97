"""What an ONNX file would load from elsewhere: tensors in other files, operators that are not ONNX's own.

It is read before any runtime opens it, field by field as protobuf defines them, since the package `onnx` is larger than
all else that a line's computer needs. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_PLAIN = ("", "ai.onnx")
_EXTERNAL = 1  # TensorProto.DataLocation
# Message -> field -> the message that lies in it.
_INNER = {
    "model": {7: "graph", 8: "operator_set", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse_tensor", 23: "sparse_tensor"},
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 9: "operator_set", 11: "attribute"},
}
_DOMAIN = {"operator_set": 1, "node": 7}
_MOST_DEPTH = 64


class GraphFileError(ValueError):
    """An ONNX file is damaged, or is more than a plain graph; the message says why."""


class _Field(NamedTuple):
    number: int
    value: memoryview | int


def check_plain(data: bytes) -> None:
    """Refuse a graph that needs more than this file and ONNX's own operators.

    Args:
        data: content of the ``.onnx`` file.

    Raises:
        GraphFileError: it does, or is no ONNX file.
    """
    fields = [field.number for field in _fields(memoryview(data))]
    if 7 not in fields or 8 not in fields:
        raise GraphFileError("it is no ONNX model")
    _check(memoryview(data), "model", 0)


def _check(message: memoryview, kind: str, depth: int) -> None:
    if depth > _MOST_DEPTH:
        raise GraphFileError("its graphs are nested too deeply")
    for number, value in _fields(message):
        if isinstance(value, int):
            if kind == "tensor" and number == 14 and value == _EXTERNAL:
                raise GraphFileError("a tensor of it lies in another file")
            continue
        if kind == "tensor" and number == 13:
            raise GraphFileError("a tensor of it lies in another file")
        if number == _DOMAIN.get(kind) and (domain := bytes(value).decode("utf-8", "replace")) not in _PLAIN:
            raise GraphFileError(f"it has operators of {domain[:80]!r}, which are none of ONNX's own")
        if inner := _INNER.get(kind, {}).get(number):
            _check(value, inner, depth + 1)


def _fields(message: memoryview) -> Iterator[_Field]:
    """The fields of a protobuf message, in order.

    Raises:
        GraphFileError: it is none.
    """
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(message, place)
            yield _Field(number, value)
            continue
        if wire == 2:
            size, place = _varint(message, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise GraphFileError("it is no ONNX model")
        if place + size > len(message):
            raise GraphFileError("it is cut short")
        yield _Field(number, message[place : place + size])
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise GraphFileError("it is cut short")
