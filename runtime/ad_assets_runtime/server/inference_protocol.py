"""Open Inference Protocol v2: an image as a tensor in, scores as tensors out, in JSON or with binary data.

A model is ``<dataset>.<lane>.<category>``, its version the first 16 digits of its bundle's sha256. Its one input
``image`` is BYTES (1,), an image file (base64 in JSON), or UINT8 (h, w, 3) or (1, h, w, 3), decoded pixels in RGB.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad_assets_runtime.bundle import Bundle, Inspected

_OUTPUTS = {"score": "FP64", "threshold": "FP64", "p_value": "FP64", "anomalous": "BOOL", "map": "FP32"}
_DTYPES = {"FP64": "<f8", "FP32": "<f4", "BOOL": "?"}
_DEFAULT = ("score", "threshold", "p_value", "anomalous")
HEADER_LENGTH = "inference-header-content-length"


class ProtocolError(ValueError):
    """A request is none of the protocol; the message says what was expected."""


def model_name(place: tuple[str, str, str]) -> str:
    """The model of a dataset, lane and category."""
    return ".".join(place)


def metadata(bundle: Bundle) -> dict[str, Any]:
    """What a model takes and gives."""
    height, width = bundle.members[0].geometry.map_size
    shapes = {"map": [1, height, width]}
    return {
        "name": model_name(bundle.place),
        "versions": [bundle.identity[:16]],
        "platform": f"{bundle.members[0].engine.name}_onnx",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}],
        "outputs": [
            {"name": name, "datatype": kind, "shape": shapes.get(name, [1])} for name, kind in _OUTPUTS.items()
        ],
    }


@dataclass(frozen=True)
class Asked:
    """A request: its id, its image as a file, the outputs that it wants, each with whether as binary data."""

    name: str
    data: bytes
    outputs: tuple[tuple[str, bool], ...]


def parse(body: bytes, header_length: str | None) -> Asked:
    """A request; pixels become a PNG file, by whose content people can name the image.

    Args:
        body: of the request.
        header_length: bytes of it that are JSON, where binary data follow.

    Raises:
        ProtocolError: it is no request of the protocol, has another input, or asks for an output that is not known.
    """
    if header_length is not None and not header_length.isdecimal():
        raise ProtocolError(f"{HEADER_LENGTH} must be a number")
    size = len(body) if header_length is None else int(header_length)
    try:
        request = json.loads(body[:size])
        [tensor] = request["inputs"]
        name, kind, shape = tensor["name"], tensor["datatype"], [int(side) for side in tensor["shape"]]
        binary = (tensor.get("parameters") or {}).get("binary_data_size")
        raw = None if binary is None else body[size : size + int(binary)]
        in_binary = bool((request.get("parameters") or {}).get("binary_data_output"))
        wanted = request.get("outputs") or [{"name": each} for each in _DEFAULT]
        outputs = tuple(
            (str(each["name"]), bool((each.get("parameters") or {}).get("binary_data", in_binary))) for each in wanted
        )
        asked_as = str(request.get("id") or "")[:300]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ProtocolError('expected {"inputs": [{"name": "image", "datatype": ..., "shape": ..., ...}]}') from error
    if name != "image" or kind not in ("BYTES", "UINT8"):
        raise ProtocolError(f"input {str(name)[:40]!r} of {str(kind)[:40]}: expected image of BYTES or UINT8")
    if unknown := [each for each, _ in outputs if each not in _OUTPUTS]:
        raise ProtocolError(f"no output {unknown[0][:40]!r}: expected {', '.join(_OUTPUTS)}")
    return Asked(asked_as, _file(tensor, raw, shape) if kind == "BYTES" else _png(tensor, raw, shape), outputs)


def answer(asked: Asked, image: Inspected) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the answer, with the outputs that were asked for."""
    prediction = image.prediction
    outputs, pieces = [], []
    for name, in_binary in asked.outputs:
        value = prediction.score_map[None] if name == "map" else [getattr(prediction, name)]
        if name != "map" and value[0] is None:  # without a threshold
            continue
        array = np.asarray(value, _DTYPES[_OUTPUTS[name]])
        output: dict[str, Any] = {"name": name, "datatype": _OUTPUTS[name], "shape": list(array.shape)}
        if in_binary:
            pieces.append(array.tobytes())
            output["parameters"] = {"binary_data_size": len(pieces[-1])}
        else:
            output["data"] = array.ravel().tolist()
        outputs.append(output)
    head = {
        "model_name": model_name(image.bundle.place),
        "model_version": image.bundle.identity[:16],
        **({"id": asked.name} if asked.name else {}),
        "parameters": {"image_id": image.image_id},
        "outputs": outputs,
    }
    text = json.dumps(head).encode()
    if not pieces:
        return text, {"Content-Type": "application/json"}
    return text + b"".join(pieces), {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}


def _file(tensor: dict[str, Any], raw: bytes | None, shape: list[int]) -> bytes:
    if shape not in ([1], [1, 1]):
        raise ProtocolError(f"an input of BYTES is one image file, of shape [1], not {shape}")
    if raw is not None:  # each element follows its length, of 4 bytes
        if len(raw) < 4 or struct.unpack("<I", raw[:4])[0] != len(raw) - 4:
            raise ProtocolError("binary BYTES: expected 4 bytes of length, then the file")
        return raw[4:]
    try:
        [text] = tensor["data"]
        return base64.b64decode(text, validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ProtocolError("an input of BYTES needs data: [the image file in base64]") from error


def _png(tensor: dict[str, Any], raw: bytes | None, shape: list[int]) -> bytes:
    if len(shape) not in (3, 4) or shape[-1] != 3 or min(shape) < 1 or (len(shape) == 4 and shape[0] != 1):
        raise ProtocolError(f"an input of UINT8 is one image in RGB, of shape [h, w, 3] or [1, h, w, 3], not {shape}")
    try:
        if raw is None:
            values = np.asarray(tensor["data"])
            if values.min() < 0 or values.max() > 255 or values.dtype.kind not in "iu":
                raise ProtocolError("an input of UINT8 has whole numbers from 0 to 255")
            pixels: NDArray[np.uint8] = values.astype(np.uint8).reshape(shape[-3:])
        else:
            pixels = np.frombuffer(raw, np.uint8).reshape(shape[-3:])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"the data of the image do not fill its shape {shape}") from error
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
