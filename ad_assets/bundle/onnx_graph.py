"""A detector's scoring of one image written down as an ONNX file: from fitted pixels and a state to map and score.

The file depends on the extractor and on the settings of the method alone. What was learnt is an input of it, so that
all categories and all updates share one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ad_assets.config.benchmark import fingerprint
from ad_assets.methods.data import Frame

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import Tensor

    from ad_assets.backbones.extractor import Extractor
    from ad_assets.methods import Method
    from ad_assets.methods.scoring_graph import ScoringGraph

VERSION = 1
IMAGE, MAP, SCORE = "image", "map", "score"
NEEDED = ("onnx", "onnxscript", "onnxruntime")


class MissingExporterError(RuntimeError):
    """The packages that write and run ONNX files are not installed."""


def check_installed() -> None:
    """Refuse to export without the packages that do it.

    Raises:
        MissingExporterError: naming them and the extra that brings them.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExporterError(f"bundles need {', '.join(missing)}: pip install 'ad-assets[onnxruntime]'")


@dataclass(frozen=True)
class GraphSpec:
    """What an ONNX file computes.

    Args:
        extractor: of the features.
        method: as configured; what it learnt is no part of it.
        region: whether there is a region of interest.
    """

    extractor: Extractor
    method: Method[Any]
    region: bool = False

    @property
    def address(self) -> str:
        """Fingerprint of all that the file follows from."""
        from ad_assets.backbones.onnx_graph import OPSET

        settings = {stage: self.method.stage_config(stage) for stage in ("fit", "match", "score")}
        return fingerprint(
            {"onnx": [VERSION, OPSET], "extractor": self.extractor.identity(), "region": self.region, **settings}
        )

    def scoring(self, tap_shapes: Sequence[tuple[int, ...]]) -> ScoringGraph:
        """The scoring from the taps on.

        Args:
            tap_shapes: (C, h, w) of all taps of the extractor.
        """
        read = self.method.layers or range(1, len(tap_shapes) + 1)
        frame = Frame(tuple(tap_shapes[number - 1] for number in read), self.extractor.map_size, self.region)
        return self.method.graph(frame).eval()

    def to_onnx(self) -> bytes:
        """Write the file, which takes seconds to half a minute.

        Raises:
            MissingExporterError: as `check_installed`.
            MissingWeights: see `Backbone.load`.
        """
        check_installed()
        from ad_assets.backbones.onnx_graph import FrameNetwork, TapNetwork

        network = TapNetwork.load(self.extractor)
        scoring = self.scoring(network.taps.shapes)
        return to_onnx(FrameNetwork(network, self.extractor), scoring, self.method.layers, self.extractor.input_size)


def to_onnx(
    backbone: torch.nn.Module, scoring: ScoringGraph, layers: Sequence[int] | None, input_size: tuple[int, int]
) -> bytes:
    """An ONNX file of a backbone and a scoring.

    Args:
        backbone: maps pixels (1, h, w, 3) uint8 to taps.
        scoring: reads some of the taps.
        layers: which, counted from 1; None: all.
        input_size: h and w.
    """
    import torch

    from ad_assets.backbones.onnx_graph import export_onnx

    names = list(scoring.inputs)

    class _Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.scoring = backbone, scoring

        def forward(self, image: Tensor, *state: Tensor) -> tuple[Tensor, Tensor]:
            taps = self.backbone(image)
            read = taps if layers is None else [taps[number - 1] for number in layers]
            score_map, score = self.scoring(read, dict(zip(names, state, strict=True)))
            return score_map[None], score.reshape(1)

    examples = tuple(torch.zeros(each.shape, dtype=each.dtype) for each in scoring.inputs.values())
    lengths = tuple(
        {axis: torch.export.Dim(f"n{number}_{axis}") for axis in each.follows} if each.follows else None
        for number, each in enumerate(scoring.inputs.values())
    )
    model = export_onnx(
        _Whole().eval(),
        (torch.zeros(1, *input_size, 3, dtype=torch.uint8), *examples),
        (MAP, SCORE),
        inputs=[IMAGE, *names],
        dynamic_shapes=(None, lengths),
    )
    _strip(model)
    read = {name for node in model.graph.node for name in node.input}
    kept = [each for each in model.graph.input if each.name in read]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    data: bytes = model.SerializeToString()
    return data


def state_inputs(data: bytes) -> list[str]:
    """The names of what an ONNX file takes of the state: what nothing reads with its settings is no input of it."""
    import onnx

    return [each.name for each in onnx.load_from_string(data).graph.input if each.name != IMAGE]


def _strip(model: onnx.ModelProto) -> None:
    """Remove what names the machine, or the sources, that wrote the file: it is half of its bytes."""
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.value_info[:]
