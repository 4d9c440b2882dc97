"""Why a backbone cannot become a graph; apart from `graph`, since benchmark files are read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ad_assets.backbones.extractor import Extractor


def graph_fault(extractor: Extractor) -> str:
    """Why an extractor is not to be had as a `BackboneGraph`, in words; empty where it is."""
    if extractor.tiles:
        return "tiles: a graph takes whole images"
    if extractor.precision != "float32":
        return f"precision {extractor.precision}: a graph computes in float32, so that every machine scores alike"
    if extractor.storage != "float32":
        return f"storage {extractor.storage}: a graph computes in float32 and rounds no features"
    return ""
