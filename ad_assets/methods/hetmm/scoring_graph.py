"""The scoring graph of HETMM: the templates are inputs, of any number of sheets.

Both directions follow from the table M of `kernels.local_matching`. It is made row of the window by row of the window:
the cosines of all templates with what lies in one row of their windows are in memory at once, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, normalize, pad

from ad_assets.methods.scoring_graph import CELLS, PIXELS, Blur, Inspected, ScoringGraph, StateInput, outside, upsampled

if TYPE_CHECKING:
    from ad_assets.methods.data import Frame
    from ad_assets.methods.hetmm.hetmm import Hetmm
    from ad_assets.methods.hetmm.templates import TemplateSet

EXAMPLE_SHEETS = 5  # that stand for all numbers of sheets while the graph is written down
NEVER = float("-inf")


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
        for layer, (_, width) in enumerate(grids):
            span = 2 * (max(self._windows(layer)) // 2) + 1
            self.register_buffer(f"columns{layer}", _columns(width, span))
            self.register_buffer(f"inside{layer}", _inside(width, span))

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
        height, width = self.grids[layer]
        forward_reach, backward_reach = (window // 2 for window in self._windows(layer))
        reach = max(forward_reach, backward_reach)
        columns, inside = self.get_buffer(f"columns{layer}"), self.get_buffer(f"inside{layer}")
        padded = pad(query, (0, 0, reach, reach))
        forward = backward = torch.full((height, width), NEVER)
        for down in range(-reach, reach + 1):
            first, last = max(0, -down), min(height, height - down)
            if last <= first:
                continue
            # (rows, W, C, span): what lies in this row of the window of each template place.
            around = padded[first + down : last + down].unfold(1, 2 * reach + 1, 1)
            best = (templates[first:last] @ around).amax(dim=2)  # (rows, W, span)
            if self.method.roi_fit and self.frame.region:
                cells = state[f"{CELLS}.{layer}"]
                met = (cells == torch.arange(height * width)).reshape(height, width)[first:last]
                best = torch.where(met[:, :, None], best, 0.0)
            best = torch.where(inside, best, NEVER)
            if abs(down) <= backward_reach:
                side = slice(reach - backward_reach, reach + backward_reach + 1)
                backward = torch.maximum(backward, _rows(best[:, :, side].amax(dim=2), first, height))
            if abs(down) <= forward_reach:
                # By query place: what the templates around it, each at its own offset, have with it.
                table = pad(best.flatten(1), (0, 1), value=NEVER)
                side = slice(reach - forward_reach, reach + forward_reach + 1)
                own = table[:, columns[:, side]].amax(dim=2)
                forward = torch.maximum(forward, _rows(own, first + down, height))
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


def _columns(width: int, span: int) -> Tensor:
    """(W, span) int64: where in a flattened row (W, span) of M the entries of a query column are; beyond its end where
    there is none."""
    query, offset = torch.arange(width)[:, None], torch.arange(span)[None]
    template = query - (offset - span // 2)
    return torch.where((template >= 0) & (template < width), template * span + offset, width * span)


def _inside(width: int, span: int) -> Tensor:
    """(W, span) bool: which entries are of a query column inside the image."""
    query = torch.arange(width)[:, None] + torch.arange(span)[None] - span // 2
    return (query >= 0) & (query < width)


def _rows(values: Tensor, first: int, height: int) -> Tensor:
    """Rows from `first` on as all rows (H, W); nothing is in the others."""
    return pad(values, (0, 0, first, height - first - values.shape[0]), value=NEVER)
