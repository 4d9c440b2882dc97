"""Transformers as extractors: tokens as maps through timm's own interface.

A block of a transformer gives tokens ``(B, N, C)``: the patches row by row, ahead of them class and register tokens, or
in an order of its own (Hiera). `forward_intermediates` of timm knows them all, and stops behind the deepest block that
is asked for. Prefix tokens (class, distillation, registers) are dropped, but for the class token of the deepest block
where that is tapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ad_assets.backbones.class_token import CLASS_TOKEN
from ad_assets.backbones.feature_maps import feature_stages

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor


class StageMaps(nn.Module):
    """A network whose feature stages give maps ``(B, C, h, w)``, each at a submodule of the stage's own path.

    Args:
        network: a timm model.
        stages: paths of some of its feature stages, as ``feature_info`` has them; `CLASS_TOKEN` for the class token
            behind the deepest of them, as ``(B, C, 1, 1)``.
        norm: apply the network's final norm to each, as DINOv2's ``get_intermediate_layers(norm=True)`` does; timm
            norms the last stage alone in hierarchical networks.

    Raises:
        ValueError: timm reads no stages of this network, or one of these is none.
    """

    output_fmt = "NCHW"

    def __init__(self, network: nn.Module, stages: Sequence[str], *, norm: bool) -> None:
        super().__init__()
        known = feature_stages(network)
        blocks = [stage for stage in stages if stage != CLASS_TOKEN]
        absent = [stage for stage in blocks if known.count(stage) != 1]
        if absent:
            own = [stage for stage in known if known.count(stage) == 1]
            raise ValueError(
                f"taps: {absent[0]!r} is no feature stage of its own in {type(network).__name__}, which maps of tokens "
                f"and norm need; choose from: {', '.join(own) or 'none, so take another backbone'}"
            )
        self.timm_network = network
        self.feature_info = network.feature_info
        self.pretrained_cfg = getattr(network, "pretrained_cfg", None)
        self._numbers = {stage: known.index(stage) for stage in sorted(blocks, key=known.index)}
        self._class_token = CLASS_TOKEN in stages
        self._norm = norm
        for stage in stages:
            _place(self, stage, nn.Identity())

    def norms(self, called: Collection[str]) -> bool:
        """Whether a pass that called some modules, by their paths, went through the final norm."""
        final = getattr(self.timm_network, "norm", None)
        return "timm_network.norm" in called and not isinstance(final, nn.Identity)

    def forward(self, images: Tensor) -> Tensor:
        """Pass images ``(B, 3, h, w)``, calling the submodules of the stages, shallow to deep."""
        found: list[Any] = self.timm_network.forward_intermediates(  # type: ignore[operator]
            images,
            indices=list(self._numbers.values()),
            norm=self._norm,
            stop_early=True,
            output_fmt=self.output_fmt,
            intermediates_only=True,
            **({"return_prefix_tokens": True} if self._class_token else {}),
        )
        for stage, each in zip(self._numbers, found, strict=True):
            deepest: Tensor = self.get_submodule(stage)(each[0] if self._class_token else each)
        if self._class_token:
            _, prefix = found[-1]
            deepest = self.get_submodule(CLASS_TOKEN)(prefix[:, 0, :, None, None])
        return deepest


def _place(parent: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path such as ``blocks.8``."""
    *folders, name = path.split(".")
    for folder in folders:
        if folder not in dict(parent.named_children()):
            parent.add_module(folder, nn.Module())
        parent = parent.get_submodule(folder)
    parent.add_module(name, module)
