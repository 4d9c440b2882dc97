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


def parse(body: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    """The JSON part of a request, and its image as a file.

    Pixels become a PNG file, by whose content people can name the image.

    Raises:
        ProtocolError: it is no request of the protocol, or has another input.
    """
    if header_length is not None and not header_length.isdigit():
        raise ProtocolError(f"{HEADER_LENGTH} must be a number")
    size = len(body) if header_length is None else int(header_length)
    try:
        request = json.loads(body[:size])
        [tensor] = request["inputs"]
        name, kind, shape = tensor["name"], tensor["datatype"], [int(side) for side in tensor["shape"]]
        binary = tensor.get("parameters", {}).get("binary_data_size")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError('expected {"inputs": [{"name": "image", "datatype": ..., "shape": ..., ...}]}') from error
    if name != "image" or kind not in ("BYTES", "UINT8"):
        raise ProtocolError(f"input {str(name)[:40]!r} of {str(kind)[:40]}: expected image of BYTES or UINT8")
    raw = None if binary is None else body[size : size + int(binary)]
    return request, _file(tensor, raw, shape) if kind == "BYTES" else _png(tensor, raw, shape)


def answer(request: dict[str, Any], image: Inspected) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the answer, with the outputs that were asked for.

    Raises:
        ProtocolError: an output is not known.
    """
    prediction = image.prediction
    wanted = request.get("outputs") or [{"name": name} for name in _DEFAULT]
    unknown = [str(each.get("name"))[:40] for each in wanted if each.get("name") not in _OUTPUTS]
    if unknown:
        raise ProtocolError(f"no output {unknown[0]!r}: expected {', '.join(_OUTPUTS)}")
    in_binary = bool(request.get("parameters", {}).get("binary_data_output"))
    outputs, pieces = [], []
    for each in wanted:
        name = each["name"]
        value = prediction.score_map[None] if name == "map" else [getattr(prediction, name)]
        if name != "map" and value[0] is None:  # without a threshold
            continue
        array = np.asarray(value, _DTYPES[_OUTPUTS[name]])
        output = {"name": name, "datatype": _OUTPUTS[name], "shape": list(array.shape)}
        if each.get("parameters", {}).get("binary_data", in_binary):
            pieces.append(array.tobytes())
            output["parameters"] = {"binary_data_size": len(pieces[-1])}
        else:
            output["data"] = array.ravel().tolist()
        outputs.append(output)
    head = {
        "model_name": model_name(image.bundle.place),
        "model_version": image.bundle.identity[:16],
        **({"id": request["id"]} if isinstance(request.get("id"), str) else {}),
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
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the data of the image do not fill its shape {shape}") from error
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
