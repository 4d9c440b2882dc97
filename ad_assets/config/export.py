"""``export`` of a detector: whether it goes out to a production line, and why one cannot."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.graph_faults import graph_fault
from ad_assets.methods import Method
from ad_assets.settings.model import Settings


class Export(Settings):
    """A detector whose states become bundles: files that a small runtime scores images with, without this project."""

    runtime: Literal["onnx"] = Field(description="what runs the bundle: onnx, a graph for ONNX Runtime or OpenVINO")


def export_fault(method: Method[Any], extractor: Extractor) -> str:
    """Why a detector cannot be exported, in words; empty where it can."""
    return graph_fault(extractor) or method.graph_fault
