"""One forward pass that learns what the taps of a network give, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ad_assets.backbones.class_token import CLASS_TOKEN, absence_fault
from ad_assets.backbones.feature_maps import LAYOUTS, Shape, feature_stages, layout_of
from ad_assets.backbones.tap_table import tap_table
from ad_assets.kernels.budget import lacks_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from ad_assets.backbones.extractor import Extractor


@dataclass(frozen=True)
class Taps:
    """Where the taps of an extractor are in a network, and what they give.

    Attributes:
        network: what to pass: the model, or a `StageMaps` of it where a tap gives tokens.
        modules: their paths, in the extractor's order.
        layouts: of what each gives, see `channels_first`.
        shapes: ``(C, h, w)`` of each, for one frame.
        deepest: the path of the one that is called last.
        activations: tap -> path of the module whose input is taken in place of the tap's own output.
    """

    network: nn.Module
    modules: tuple[str, ...]
    layouts: Mapping[str, str]
    shapes: tuple[Shape, ...]
    deepest: str
    activations: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module, extractor: Extractor, forward: Callable[[nn.Module, Tensor], object]) -> Taps:
        """Find the taps of an extractor.

        Args:
            model: without hooks.
            extractor: names the taps.
            forward: passes a batch ``(B, 3, h, w)`` through the model, or another network.

        Raises:
            ValueError: the network takes no frame of the extractor's size, or a tap is not there or gives no map in a
                known layout, or `Extractor.norm` is asked of a network that norms none of them.
        """
        modules = dict(model.named_modules())
        taps = [_resolve(model, modules, extractor, tap) for tap in extractor.modules]
        network, trace = _traced(model, extractor, taps, forward)
        tabled, outputs = extractor.architecture in tap_table(), trace.outputs
        layouts = {
            tap: "NCHW"  # one cell, which no frame is like
            if tap == CLASS_TOKEN
            else layout_of(network, tap, outputs[tap], extractor.frame_size, convolutional=tabled)
            for tap in taps
        }
        shapes = tuple(tuple(int(outputs[tap][axis]) for axis in LAYOUTS[layouts[tap]]) for tap in taps)
        activations = trace.activations if extractor.pre_activation else {}
        if len({activations.get(tap, tap) for tap in taps}) < len(taps):
            raise ValueError(f"taps: {', '.join(taps)} lie ahead of one and the same activation")
        return cls(network, tuple(taps), layouts, shapes, trace.order[-1], activations)

    def hook(self, keep: Any) -> None:
        """Let the network call ``keep(tap, map)`` in each pass, with the map in its own layout."""

        def output_of(tap: str) -> Any:
            return lambda _module, _inputs, output: keep(tap, output)

        def input_of(tap: str) -> Any:
            return lambda _module, inputs: keep(tap, inputs[0])

        for tap in self.modules:
            if tap in self.activations:
                self.network.get_submodule(self.activations[tap]).register_forward_pre_hook(input_of(tap))
            else:
                self.network.get_submodule(tap).register_forward_hook(output_of(tap))


def _traced(
    model: nn.Module, extractor: Extractor, taps: list[str], forward: Callable[[nn.Module, Tensor], object]
) -> tuple[nn.Module, Trace]:
    """The network whose taps give maps where that is possible, and a pass through it."""
    from ad_assets.backbones.stage_maps import StageMaps

    modules, stages = dict(model.named_modules()), feature_stages(model)
    through_timm = extractor.norm or not set(taps) <= set(modules)  # of MViT timm names stages that are no modules
    network: nn.Module = StageMaps(model, taps, norm=extractor.norm) if through_timm else model
    trace = Trace(extractor, dict(network.named_modules()), taps, partial(forward, network))
    tokens = [tap for tap in taps if isinstance(trace.outputs[tap], str) or len(trace.outputs[tap]) == 3]
    if tokens and set(tokens) <= set(stages):
        network = StageMaps(model, taps, norm=False)
        trace = Trace(extractor, dict(network.named_modules()), taps, partial(forward, network))
    if isinstance(network, StageMaps) and extractor.norm and not network.norms(trace.called):
        raise ValueError(
            f"norm: {extractor.backbone} has no final norm that timm applies to {', '.join(taps)}; leave norm out"
        )
    return network, trace


class Trace:
    """One forward pass that learns the taps' order, what they give, and the activation that each ends in.

    Raises:
        ValueError: the pass fails, or calls a tap never or more than once.
    """

    def __init__(self, extractor: Extractor, modules: dict[str, nn.Module], taps: list[str], forward: Any) -> None:
        import torch

        self.called: set[str] = set()
        self.order: list[str] = []
        self.outputs: dict[str, Shape | str] = {}
        self.activations: dict[str, str] = {}
        last_leaf: dict[int, str] = {}
        alive: list[object] = []  # ids of tensors are compared, so none may be freed in between

        def seen(name: str) -> Any:
            def hook(module: nn.Module, inputs: object, output: object) -> None:
                del inputs
                self.called.add(name)
                if not any(module.children()) and not isinstance(module, torch.nn.Identity):
                    last_leaf[id(output)] = name
                    alive.append(output)
                if name in taps:
                    self.order.append(name)
                    self.outputs[name] = (
                        tuple(output.shape) if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
                    )
                    # A block ends in an activation when that module made the very tensor that it returns.
                    leaf = last_leaf.get(id(output))
                    if leaf is not None and _is_activation(modules[leaf]):
                        self.activations[name] = leaf

            return hook

        hooks = [module.register_forward_hook(seen(name)) for name, module in modules.items() if name]
        try:
            _show_frame(forward, modules[""], extractor)
        finally:
            for handle in hooks:
                handle.remove()
        unused = [tap for tap in taps if tap not in self.order]
        if unused:
            raise ValueError(f"taps: the forward pass never calls {', '.join(unused)}; choose another module")
        shared = [tap for tap in taps if self.order.count(tap) > 1]
        if shared:
            raise ValueError(f"taps: the forward pass calls {', '.join(shared)} more than once; choose another module")


def _show_frame(forward: Any, model: nn.Module, extractor: Extractor) -> None:
    """Pass a black frame through a network.

    Raises:
        ValueError: it takes no frame of this size.
    """
    import torch

    try:
        forward(torch.zeros(1, 3, *extractor.frame_size))
    except Exception as error:  # a network of one size says so by an assertion, or fails somewhere within
        if lacks_memory(error):
            raise
        raise ValueError(_refusal(model, extractor, error)) from error


def _refusal(model: nn.Module, extractor: Extractor, error: Exception) -> str:
    """That a network does not take the frame, the size that it is made for, and the remedy."""
    height, width = extractor.frame_size
    failure = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
    own = tuple((getattr(model, "pretrained_cfg", None) or {}).get("input_size") or ())[1:]
    source = "tiles" if extractor.tiles else "resize and crop"
    said = f"{extractor.backbone} fails at images of {height}x{width} ({source}): {failure}"
    if len(own) != 2 or own == (height, width):
        return f"{said}; choose another size or another backbone"
    square = f", or crop: {own[0]} with a resize of at least that" if own[0] == own[1] else ""
    if extractor.tiles:
        return f"{said}; it is made for {own[0]}x{own[1]}: write tiles: {{size: {own[0]}, overlap: {own[0] // 4}}}"
    return f"{said}; it is made for {own[0]}x{own[1]}: write resize: [{own[0]}, {own[1]}] without crop{square}"


def _is_activation(module: nn.Module) -> bool:
    return (
        type(module).__module__ == "torch.nn.modules.activation" or "timm.layers.activations" in type(module).__module__
    )


def _resolve(model: nn.Module, modules: dict[str, nn.Module], extractor: Extractor, tap: str) -> str:
    """The module path of a tap; reductions through timm's own table of stages."""
    if tap == CLASS_TOKEN:
        if fault := absence_fault(model, extractor.backbone):
            raise ValueError(fault)
        return tap
    stages: list[dict[str, Any]] = list(getattr(model, "feature_info", []))
    if tap.startswith("/"):
        found = [stage["module"] for stage in stages if f"/{stage['reduction']}" == tap]
        tap = found[-1] if found else tap
    if tap in modules or tap in feature_stages(model):
        return tap
    known = [f"{stage['module']} (/{stage['reduction']})" for stage in stages]
    blocks = [name for name in modules if name and name.count(".") < 2 and any(modules[name].children())]
    raise ValueError(
        f"taps: {extractor.backbone} has no {tap!r}; its feature stages are: {', '.join(known) or 'none'}; "
        f"its blocks: {', '.join(blocks)}"
    )
