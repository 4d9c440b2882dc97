"""Which axes of a module's output are its channels, rows and columns.

timm's networks give maps as (B, C, h, w), or as (B, h, w, C): Swin, MambaOut, Sequencer, VOLO, the encoders of
Segment Anything, and modules inside others, such as the MLPs of ConvNeXt. Only some of them declare it (`output_fmt`),
so the shape decides: rows and columns are to each other as those of the frame. Where that leaves it open, as in
(64, 64, 64), the network is shown a frame of twice the height, and one of twice the width.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ad_assets.kernels.budget import lacks_memory

if TYPE_CHECKING:
    from torch import Tensor, nn

# Layout -> the axes of channels, rows and columns.
LAYOUTS = {"NCHW": (1, 2, 3), "NHWC": (3, 1, 2)}
# Convolutions without padding, as in Inception, leave a few pixels less than the reduction says.
PADDING = 4

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Declared:
    """What timm says of the output of a module; None where it says nothing.

    Attributes:
        channels: of ``feature_info``.
        reduction: of ``feature_info``: pixels of the frame to a step of the map.
        layout: the model's ``output_fmt``.
    """

    channels: int | None = None
    reduction: int | None = None
    layout: str | None = None

    @classmethod
    def of(cls, model: nn.Module, module: str) -> Declared:
        """What is declared of a module, where it is one of the model's feature stages."""
        stages: Sequence[dict[str, Any]] = list(getattr(model, "feature_info", None) or [])
        named = [stage for stage in stages if stage.get("module") == module]
        if len(named) != 1:  # of CoaT one module gives several stages
            return cls()
        layout = getattr(model, "output_fmt", None)
        return cls(named[0].get("num_chs"), named[0].get("reduction"), None if layout is None else str(layout))

    def admits(self, layout: str, tap_shape: tuple[int, int, int], frame: tuple[int, int]) -> bool:
        """Whether a map ``(C, h, w)``, read in a layout, is the declared one."""
        channels, *sides = tap_shape
        whole = [side / self.reduction if self.reduction else None for side in frame]
        return (
            self.layout in (None, layout)
            and self.channels in (None, channels)
            and all(due is None or abs(side - due) <= PADDING for side, due in zip(sides, whole, strict=True))
        )

    def __str__(self) -> str:
        facts = {"channels": self.channels, "reduction": self.reduction, "layout": self.layout}
        return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)


def layout_of(
    model: nn.Module, module: str, output: Shape | str, frame: tuple[int, int], *, convolutional: bool = False
) -> str:
    """The layout of a module's output, one of `LAYOUTS`.

    Args:
        model: as timm made it, without hooks; it is not changed.
        module: its path.
        output: the shape that it gave for one frame, or the name of a type that is no tensor.
        frame: height and width of the model's input.
        convolutional: the model is known to hold maps (B, C, h, w) alone, all through.

    Raises:
        ValueError: it is no map in a known layout, or not what timm declares.
    """
    given = f"taps: {module!r} gives {output} for one frame of {frame[0]}x{frame[1]}"
    if isinstance(output, str) or len(output) != 4 or output[0] != 1:
        raise ValueError(
            f"{given}, no map (B, C, h, w) or (B, h, w, C); maps of tokens are read of feature stages alone: "
            f"{_some(feature_stages(model))}"
        )
    declared = Declared.of(model, module)
    layout = _layout(model, module, output, frame, declared, convolutional)
    if not layout:
        raise ValueError(
            f"{given}, which is not known to be a map (B, C, h, w) or (B, h, w, C); choose a stage of the "
            "network, or another resize or crop"
        )
    channels, rows, columns = (output[axis] for axis in LAYOUTS[layout])
    if not declared.admits(layout, (channels, rows, columns), frame):
        raise ValueError(
            f"{given}, read as {channels} channels of {rows}x{columns} ({layout}), but timm declares {declared}: "
            "choose another tap, or another release of timm"
        )
    return layout


def feature_stages(network: nn.Module) -> list[str]:
    """Paths of the stages that timm reads maps of, shallow to deep; none where it has no such interface."""
    read = getattr(network, "forward_intermediates", None)
    if read is None or not {"indices", "norm", "stop_early", "output_fmt"} <= set(inspect.signature(read).parameters):
        return []
    stages: list[dict[str, Any]] = list(getattr(network, "feature_info", None) or [])
    return [stage["module"] for stage in stages]


def _some(stages: Sequence[str]) -> str:
    return ", ".join([*stages[:2], "...", stages[-1]] if len(stages) > 4 else stages) or "of which timm has none here"


def channels_first(features: Tensor, layout: str) -> Tensor:
    """A map in a layout, as ``(B, C, h, w)``: a view."""
    return features.permute(0, *LAYOUTS[layout])


def _layout(
    model: nn.Module, module: str, shape: Shape, frame: tuple[int, int], declared: Declared, convolutional: bool
) -> str:
    fits = [layout for layout in LAYOUTS if _fits(shape, layout, frame)]
    if declared.layout in fits:
        return str(declared.layout)
    if len(fits) == 1 and (declared.channels is not None or convolutional):
        return fits[0]
    # A module inside a stage may give no map at all: weights of attention are (B, N, N, heads), or (B, heads, N, N).
    measured = _measured(model, module, shape, frame)
    if measured is None and fits == ["NCHW"]:
        return "NCHW"
    return measured or ""


def _fits(shape: Shape, layout: str, frame: tuple[int, int]) -> bool:
    """Whether rows and columns are to each other as those of the frame, to one step of a map of an oblong frame."""
    _, rows, columns = (shape[axis] for axis in LAYOUTS[layout])
    height, width = frame
    slack = 0 if height == width else max(frame)
    return rows <= height and columns <= width and abs(rows * width - columns * height) <= slack


def _measured(model: nn.Module, module: str, usual: Shape, frame: tuple[int, int]) -> str | None:
    """The layout by the axes that grow with the frame's height and with its width.

    Returns:
        Empty: other axes grow, or none; None: the network takes no other frame.
    """
    height, width = frame
    try:
        tall, wide = (_output_shape(model, module, size) for size in ((2 * height, width), (height, 2 * width)))
    except Exception as error:  # a network of one size says so in any way
        if lacks_memory(error):
            raise
        return None
    if len(tall) != len(usual) or len(wide) != len(usual):
        return ""
    grown = [[axis for axis, side in enumerate(usual) if other[axis] != side] for other in (tall, wide)]
    return next((layout for layout, (_, *axes) in LAYOUTS.items() if grown == [[axis] for axis in axes]), "")


def _output_shape(model: nn.Module, module: str, frame: tuple[int, int]) -> Shape:
    import torch

    if hasattr(model, "set_input_size"):  # a network that is made for one size
        model = copy.deepcopy(model)
        model.set_input_size(frame)  # type: ignore[operator]
    shapes: list[Shape] = []
    handle = model.get_submodule(module).register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape)))
    try:
        with torch.inference_mode():
            model(torch.zeros(1, 3, *frame, device=next(model.parameters()).device))
    finally:
        handle.remove()
    return shapes[0]
