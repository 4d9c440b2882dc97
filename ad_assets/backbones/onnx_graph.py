"""A backbone as an ONNX graph, for other engines than PyTorch: images in, the maps of the taps out.

The network's own output is not one of the graph's, so that the exporter drops all that lies behind the deepest tap.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ad_assets.backbones.feature_maps import channels_first
from ad_assets.backbones.patches import fit_input_size
from ad_assets.backbones.tracing import Taps
from ad_assets.backbones.weights import build_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx
    from torch import Tensor

    from ad_assets.backbones.extractor import Extractor

OPSET = 20


class TapNetwork(nn.Module):
    """The network of an extractor: normalised images ``(B, 3, h, w)`` float32 -> for each tap ``(B, C, h, w)``.

    The maps are float32, before they are rounded to `Extractor.storage`; of tiles, those of a tile.

    Args:
        model: a timm model with its weights, without hooks; it gets some.
        extractor: the taps.

    Attributes:
        taps: what they give.

    Raises:
        ValueError: see `Taps.of`.
    """

    def __init__(self, model: nn.Module, extractor: Extractor) -> None:
        super().__init__()
        fit_input_size(model, extractor)
        self.model = model.requires_grad_(False)
        self.eval()
        with torch.inference_mode():
            self.taps = Taps.of(self.model, extractor, lambda network, images: network(images))
        self._caught: dict[str, Tensor] = {}
        # Cloned, because the layers that follow may work in place on the same memory.
        self.model = self.taps.network
        self.taps.hook(lambda tap, output: self._caught.update({tap: output.clone()}))

    @classmethod
    def load(cls, extractor: Extractor) -> TapNetwork:
        """Build the network and load its weights.

        Raises:
            MissingWeights: the weights cannot be had or do not fit the architecture.
            ValueError: timm has no such model, or a tap is wrong.
        """
        return cls(build_model(extractor), extractor)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps of the taps, in the extractor's order."""
        self.model(images)
        maps = [channels_first(self._caught[tap], self.taps.layouts[tap]) for tap in self.taps.modules]
        self._caught.clear()  # what an export leaves here are no tensors of numbers, and no pass may find them
        return [each.contiguous() for each in maps]


class FrameNetwork(nn.Module):
    """Frames ``(B, h, w, 3)`` uint8 RGB, as `fit_image` resizes and crops images -> the maps of a `TapNetwork`.

    The maps are those that are stored: rounded where `Extractor.storage` is float16. ONNX Runtime does round, OpenVINO
    takes that for needless and leaves it out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: TapNetwork, extractor: Extractor) -> None:
        super().__init__()
        self.network = network
        self.rounded = extractor.storage == "float16"
        for name, values in zip(("mean", "std"), extractor.normalisation, strict=True):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        self.eval()

    def forward(self, frames: Tensor) -> list[Tensor]:
        """The maps of the taps, in the extractor's order."""
        normalised = (frames.to(torch.float32) / 255 - self.mean) / self.std
        taps: list[Tensor] = self.network(normalised.permute(0, 3, 1, 2))
        return [tap.to(torch.float16).to(torch.float32) for tap in taps] if self.rounded else taps


def export_onnx(
    network: nn.Module,
    example: Sequence[Tensor],
    outputs: Sequence[str],
    *,
    inputs: Sequence[str] | None = None,
    dynamic_shapes: Any = None,
) -> onnx.ModelProto:
    """A network as an ONNX model, weights included, whose inputs have the shapes of the example.

    Args:
        network: in evaluation mode.
        example: its inputs.
        outputs: names of its outputs.
        inputs: names of its inputs; None: those of the parameters of its `forward`.
        dynamic_shapes: which axes of the inputs have any length, as `torch.onnx.export` takes them; None: none.

    Raises:
        ImportError: the packages onnx and onnxscript are not installed.
    """
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            network,
            tuple(example),
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter of this release of PyTorch gives no program")  # documented as optional
    model: onnx.ModelProto = program.model_proto
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says of its own workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
