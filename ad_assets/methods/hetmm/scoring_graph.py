"""The scoring graph of HETMM: the templates are inputs, of any number of sheets.

Both directions follow from the table of `windowed_cosines`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, normalize

from ad_assets.methods.scoring_graph import CELLS, PIXELS, Blur, Inspected, ScoringGraph, StateInput, outside, upsampled
from ad_assets.methods.windowed_cosines import NEVER, WindowedCosines

if TYPE_CHECKING:
    from ad_assets.methods.data import Frame
    from ad_assets.methods.hetmm.hetmm import Hetmm
    from ad_assets.methods.hetmm.templates import TemplateSet

EXAMPLE_SHEETS = 5  # that stand for all numbers of sheets while the graph is written down


class HetmmGraph(ScoringGraph):
    """Sums over layers of cosine distances within windows, or of patches."""

    def __init__(self, method: Hetmm, frame: Frame) -> None:
        grids = [(shape[1], shape[2]) for shape in frame.taps]
        inputs = {
            f"templates.{layer}": StateInput((height, width, EXAMPLE_SHEETS, channels), follows=(2,))
            for layer, (channels, height, width) in enumerate(frame.taps)
        }
        super().__init__(frame, grids, inputs)
        self.method, self.grids = method, grids
        self.map_blur = Blur(frame.map_size, method.map_sigma, method.map_blur_size, method.border)
        self.image_blur = Blur(frame.map_size, method.image_sigma, method.image_blur_size, method.border)
        self.windows = nn.ModuleList(
            WindowedCosines(grid, max(self._windows(layer)) // 2) for layer, grid in enumerate(grids)
        )

    def _windows(self, layer: int) -> tuple[int, int]:
        forward = self.method.windows[layer]
        return forward, self.method.windows_backward[layer] if self.method.windows_backward else forward

    def forward(self, taps: list[Tensor], state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As `ScoringGraph.forward`."""
        method, found = self.method, []
        for layer, tap in enumerate(taps):
            inspected = Inspected(state, layer)
            query = normalize(inspected.filled_tap(tap), dim=1)[0].permute(1, 2, 0)
            templates = state[f"templates.{layer}"]
            if method.matching == "patch":
                distances = _patches(query, templates, method.windows[layer])
            else:
                alpha = method.alpha[layer] if isinstance(method.alpha, tuple) else method.alpha
                forward, backward = self._matched(layer, query, templates, state)
                distances = float(alpha) * forward + (1 - float(alpha)) * backward
            filled = inspected.filled(distances.flatten())
            weight = method.weights[layer] if method.weights else 1.0
            size, corners = self.frame.map_size, method.align_corners
            found.append(weight * upsampled(filled, self.grids[layer], size, align_corners=corners))
        total = torch.stack(found).sum(dim=0)
        return outside(self.map_blur(total), state), self._image_score(total, state)

    def _matched(
        self, layer: int, query: Tensor, templates: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Distances (H, W) forwards and backwards, from unit vectors (H, W, C) and (H, W, K, C)."""
        windows = cast(WindowedCosines, self.windows[layer])
        forward_reach, backward_reach = (window // 2 for window in self._windows(layer))
        met = None
        if self.method.roi_fit and self.frame.region:
            cells = state[f"{CELLS}.{layer}"]
            met = (cells == torch.arange(cells.shape[0])).reshape(self.grids[layer])
        forward = backward = torch.full(self.grids[layer], NEVER)
        for down, first, best in windows.tables(query, templates, met=met, unmet=0.0):
            if abs(down) <= backward_reach:
                own = windows.of_templates(best, backward_reach)
                backward = torch.maximum(backward, windows.placed(own, first))
            if abs(down) <= forward_reach:
                own = windows.of_queries(best, forward_reach)
                forward = torch.maximum(forward, windows.placed(own, first + down))
        return (1 - forward).clamp(0, 2), (1 - backward).clamp(0, 2)

    def _image_score(self, total: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Equation 11, or the mean of a max-pooled map, of the pools that hold an inspected pixel."""
        blurred = outside(self.image_blur(total), state)
        if self.method.image_pool is None:
            return blurred.max()
        side = min(self.method.image_pool, *self.frame.map_size)
        pools = max_pool2d(blurred[None, None], side)[0, 0]
        if PIXELS not in state:
            return pools.mean()
        counted = max_pool2d(state[PIXELS][None, None].float(), side)[0, 0]
        mean = (pools * counted).sum() / counted.sum().clamp(min=1)
        return torch.where(counted.sum() > 0, mean, blurred.max())

    def tensors(self, state: TemplateSet) -> dict[str, Tensor]:
        """The templates of each layer."""
        return {f"templates.{layer}": templates for layer, templates in enumerate(state.templates)}


def _patches(query: Tensor, templates: Tensor, size: int) -> Tensor:
    """(H, W): distances of patches to the nearest at the same place, as `kernels.patch_matching` has them."""
    cosines = (templates @ query[:, :, :, None])[..., 0].permute(2, 0, 1)
    means = avg_pool2d(cosines[None], size, stride=1, padding=size // 2, count_include_pad=False)[0]
    return (1 - means.amax(dim=0)).clamp(0, 2)
