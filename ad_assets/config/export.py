"""``export`` of a detector: whether it goes out to a production line, and why one cannot."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.graph_faults import graph_fault
from ad_assets.methods import Method
from ad_assets.settings.model import Settings

LARGEST_STATE = 1_000_000_000  # bytes: a line's computer reads and holds it


class Export(Settings):
    """A detector whose states become bundles: files that a small runtime scores images with, without this project."""

    runtime: Literal["onnx"] = Field(description="what runs the bundle: onnx, a graph for ONNX Runtime or OpenVINO")


def export_fault(method: Method[Any], extractor: Extractor) -> str:
    """Why a detector cannot be exported, in words; empty where it can, as far as is known before there is a state."""
    if fault := graph_fault(extractor) or method.graph_fault:
        return fault
    shapes = extractor.tabled_shapes or ()
    read = [shape for number, shape in enumerate(shapes, 1) if method.layers is None or number in method.layers]
    return size_fault(method.graph_bytes(read)) if read else ""


def size_fault(size: int) -> str:
    """That a state of so many bytes is too large for a line's computer, in words; empty where it is not."""
    if size <= LARGEST_STATE:
        return ""
    return (
        f"its state takes {size / 1e9:.2g} GB, more than {LARGEST_STATE / 1e9:g} GB: keep less of what is learnt "
        "(channels, sheets, coreset_ratio), or shrink the images more (resize)"
    )
