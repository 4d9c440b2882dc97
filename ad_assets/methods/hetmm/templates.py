"""The template set of HETMM: nominal feature vectors of unit length, place by place (equation 2)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from ad_assets.methods.data import Features, all_finite
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
            the store's features, and then `StoredTemplates`.
        sources: a layer each, (H, W, K) int32: which of `image_ids` a template is from; empty for all images, where
            template k is from image k.
        clusters: a layer each, (H, W) int16: regions that OPTICS found; empty where it was not asked.
        shapes: a layer each, C, H, W.
        image_ids: the nominal images.
    """

    templates: Sequence[Tensor]
    sources: list[Tensor]
    clusters: list[Tensor]
    shapes: list[list[int]]
    image_ids: list[str]

    def to(self, device: str) -> Self:
        """As `State.to`."""
        if isinstance(self.templates, StoredTemplates):
            rest = replace(self, templates=[]).to(device)
            return replace(rest, templates=self.templates.to(device))
        return super().to(device)

    def _values(self) -> dict[str, Any]:
        return {**super()._values(), "templates": list(self.templates)}


class StoredTemplates(Sequence["Tensor"]):
    """The templates of all images, a layer each, (H, W, N, C): read from the store when a layer is first asked for.

    A set that grew is mostly searched in what came alone, and what was there need not be read.

    Args:
        features: of the N images.
        shapes: a layer each, C, H, W.
        runtime: device and memory budget. Asking for a layer raises what `nominal_vectors` does.
        device: where the templates are to be; None: in main memory.
    """

    def __init__(self, features: Features, shapes: list[list[int]], runtime: Runtime, device: str = "cpu") -> None:
        self._features, self._shapes, self._runtime, self._device = features, shapes, runtime, device
        self._read: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, layer: Any) -> Any:
        if not 0 <= layer < len(self):
            raise IndexError(layer)
        if layer not in self._read:
            shape, images = self._shapes[layer], len(self._features)
            beside = images * (bytes_each(self._shapes) - bytes_each([shape]))
            vectors = nominal_vectors(self._features.layer(layer), shape, self._runtime, beside)
            self._read[layer] = vectors.to(self._device)
        return self._read[layer]

    def of_images(self, numbers: Sequence[int]) -> list[Tensor]:
        """Those of some images alone, a layer each."""
        ids = tuple(self._features.image_ids[number] for number in numbers)
        some = StoredTemplates(replace(self._features, image_ids=ids), self._shapes, self._runtime, self._device)
        return list(some)

    def to(self, device: str) -> StoredTemplates:
        """The same on a device."""
        other = StoredTemplates(self._features, self._shapes, self._runtime, device)
        other._read |= {layer: vectors.to(device) for layer, vectors in self._read.items()}
        return other


def bytes_each(shapes: list[list[int]]) -> int:
    """Bytes of the float32 templates of one image, over layers of these shapes (C, H, W)."""
    return 4 * sum(channels * height * width for channels, height, width in shapes)


def nominal_vectors(features: Features, shape: list[int], runtime: Runtime, beside: int = 0) -> Tensor:
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
    from ad_assets.kernels.unit_vectors import unit_vectors

    channels, height, width = shape
    everything = runtime.empty(TEMPLATES, height, width, len(features), channels, beside=beside)
    done = 0
    for ids, (tap,) in features.batches():
        tap = tap.to(runtime.device)
        if list(tap.shape[1:]) != shape or not all_finite(tap):
            raise ValueError(
                f"images {ids[0]}...: features {tuple(tap.shape[1:])} instead of {tuple(shape)}, or NaN or infinity: "
                "extract all features with one extractor, in float32"
            )
        vectors = unit_vectors(tap).permute(2, 3, 0, 1)
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
