"""The template set of HETMM: nominal feature vectors of unit length, place by place (equation 2)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ad_assets.methods.data import Features
from ad_assets.methods.runtime import Runtime
from ad_assets.methods.state import State

if TYPE_CHECKING:
    from torch import Tensor


TEMPLATES = "the templates"
ABSENT = -1  # source of a template that is from an image that was left out


@dataclass(frozen=True)
class TemplateSet(State):
    """Nominal feature vectors, place by place.

    Args:
        templates: a layer each, (H, W, K, C) float32 of unit length over C; empty while the set of all images lies in
            the store's features.
        sources: a layer each, (H, W, K) int32: which of `image_ids` a template is from; empty for all images, where
            template k is from image k.
        clusters: a layer each, (H, W) int16: regions that OPTICS found; empty where it was not asked.
        shapes: a layer each, C, H, W.
        image_ids: the nominal images.
    """

    templates: list[Tensor]
    sources: list[Tensor]
    clusters: list[Tensor]
    shapes: list[list[int]]
    image_ids: list[str]


def bytes_each(shapes: list[list[int]]) -> int:
    """Bytes of the float32 templates of one image, over layers of these shapes (C, H, W)."""
    return 4 * sum(channels * height * width for channels, height, width in shapes)


def unit_vectors(features: Features, shape: list[int], runtime: Runtime, beside: int = 0) -> Tensor:
    """(H, W, N, C) float32 of one layer, of unit length over C, in main memory or mapped into it.

    Args:
        features: of that layer.
        shape: C, H and W.
        runtime: device and memory budget.
        beside: bytes of other layers that are held with it.

    Raises:
        ValueError: other shapes, or NaN.
        BudgetError: they are beyond the budget, and the disk has no room for them.
    """
    from torch.nn.functional import normalize

    channels, height, width = shape
    everything = runtime.empty(TEMPLATES, height, width, len(features), channels, beside=beside)
    done = 0
    for ids, (tap,) in features.batches():
        tap = tap.to(runtime.device)
        if list(tap.shape[1:]) != shape or not tap.isfinite().all():
            raise ValueError(
                f"images {ids[0]}...: features {tuple(tap.shape[1:])} instead of {tuple(shape)}, or NaN or infinity: "
                "extract all features with one extractor, in float32"
            )
        vectors = normalize(tap, dim=1).permute(2, 3, 0, 1)
        # Turned on a device, they come back as they will lie here.
        everything[:, :, done : done + len(ids)] = (
            vectors if vectors.device.type == "cpu" else vectors.contiguous().cpu()
        )
        done += len(ids)
        runtime.report("images read as templates", done, len(features))
    return everything


def without_templates(state: TemplateSet, image_ids: Collection[str]) -> TemplateSet:
    """A set whose templates from some images count as from none, so that `absent_templates` finds them.

    Raises:
        ValueError: no other image is left.
    """
    import torch

    left = [image_id for image_id in state.image_ids if image_id not in image_ids]
    if not left:
        raise ValueError("every template is from near-copies of one image: fit other images too")
    position = torch.tensor([left.index(i) if i not in image_ids else ABSENT for i in state.image_ids]).int()
    sources = state.sources or [torch.arange(len(state.image_ids)).expand(*shape[1:], -1) for shape in state.shapes]
    return replace(state, sources=[position.to(each.device)[each.long()] for each in sources], image_ids=left)


def absent_templates(state: TemplateSet, layer: int) -> Tensor | None:
    """(T, H, W) bool: which templates are from images that were left out; None: none is."""
    if not state.sources:
        return None
    absent = state.sources[layer].permute(2, 0, 1) == ABSENT
    return absent if absent.any() else None


def images_of_all(state: TemplateSet) -> Tensor | None:
    """(T,) of a set of all images: which of `image_ids` each template is from, or `ABSENT`; None of selected sheets."""
    import torch

    everything = torch.arange(len(state.image_ids), dtype=torch.int32)
    if not state.sources:
        return everything
    first = state.sources[0][0, 0].cpu()
    same = all(bool((sources == first.to(sources.device)).all()) for sources in state.sources)
    return first if same and torch.equal(first[first != ABSENT], everything) else None


def own_templates(state: TemplateSet, layer: int, image_ids: Sequence[str]) -> Tensor:
    """(B, T, H, W) bool: which templates are from the image itself.

    Raises:
        ValueError: there is no other image.
    """
    import torch

    known = {image_id: number for number, image_id in enumerate(state.image_ids)}
    if len(known) < 2 and known.keys() & set(image_ids):
        raise ValueError(f"every template is from image {state.image_ids[0]}: fit at least two images")
    numbers = torch.tensor([known.get(image_id, -2) for image_id in image_ids])
    if state.sources:
        sources = state.sources[layer].permute(2, 0, 1)
        return sources == numbers.to(sources.device)[:, None, None, None]
    _, height, width = state.shapes[layer]
    own = torch.arange(len(known)) == numbers[:, None]
    return own[:, :, None, None].expand(-1, -1, height, width)
