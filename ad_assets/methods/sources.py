"""Which training images, and which of their patches, a place of an image is compared with.

Memory banks, SPADE, RAD and template sets keep vectors of single images, so they can say it. What keeps statistics or
weights of all images together cannot: `why_unknown` says what such a method has instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ad_assets.methods.base import Method
from ad_assets.methods.data import Batch
from ad_assets.methods.hetmm.hetmm import Hetmm
from ad_assets.methods.hetmm.templates import TemplateSet
from ad_assets.methods.memory_bank.bank import MemoryBank, unturned_cell
from ad_assets.methods.memory_bank.layer_banks import LayerBanks
from ad_assets.methods.memory_bank.patch_bank import PatchBank
from ad_assets.methods.memory_bank.search import nearest_rows
from ad_assets.methods.memory_bank.superadd import SuperAdd
from ad_assets.methods.padim import Padim
from ad_assets.methods.patch_embedding import patch_grid
from ad_assets.methods.region_of_interest import inspected_cells
from ad_assets.methods.retrieval.image_retrieval import ImageRetrieval, Pyramids
from ad_assets.methods.retrieval.rad import Rad, compared
from ad_assets.methods.retrieval.spade import Spade
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

DEPTH = 16  # nearest rows of a patch among which one of another image is sought
Place = tuple[float, float]  # of the height and width of the extractor's input, 0..1


@dataclass(frozen=True)
class Source:
    """A patch of a training image.

    Args:
        image_id: the image.
        place: the centre of the patch.
        size: its height and width, as parts of those of the input. What its features see reaches further.
        distance: to the patch of the image that is explained: L2, or of template sets and RAD 1 - cosine.
        layer: of these and SuperADD, the tap, from 1; None where taps are joined.
    """

    image_id: str
    place: Place
    size: Place
    distance: float
    layer: int | None = None


def why_unknown(method: Method[Any]) -> str:
    """Why a method cannot name the training images behind a score, and what it can say; empty where it can."""
    if isinstance(method, PatchBank):
        proxies = "subsampling: proxies learns rows that are no patch of an image; greedy and random keep patches"
        return proxies if method.subsampling == "proxies" else ""
    if isinstance(method, Hetmm):
        patch = "matching: patch compares whole patches, whose sources are not sought; matching: window names them"
        return patch if method.matching == "patch" else ""
    if isinstance(method, ImageRetrieval | SuperAdd):
        return ""
    if isinstance(method, Padim):
        return (
            "padim keeps a mean and a covariance of all training images at each place: which image widened it is not "
            "known. Its score map says where; `ad-assets bisect` says with which batch it changed"
        )
    return (
        f"{method.name} keeps what it learnt of all training images together and no patch of one: its score map says "
        "where, `ad-assets bisect` with which batch it changed"
    )


def hottest_place(
    method: Method[Any],
    state: Any,
    taps: list[Tensor],
    score_map: NDArray[Any],
    runtime: Runtime,
    defect: NDArray[Any] | None,
    region: Tensor | None = None,
) -> Place | None:
    """The place of the highest score: of a memory bank among its patches, else in the map.

    Of a bank and within a defect, the place that would have it without the one training image that lowers it most: a
    defect is hottest where it is matched least, which is not where a training image hides it.

    Args:
        method: that `why_unknown` has nothing against.
        state: as it scores.
        taps: of one image, each (1, C, h, w).
        score_map: (H, W), of the image.
        runtime: device and memory budget.
        defect: (H, W) bool, where to look; None: everywhere.
        region: (H, W) bool, the region of interest; None: all is inspected.

    Returns:
        None: nothing of the defect is inspected.
    """
    import torch

    values = torch.from_numpy(score_map.copy())
    distances = sources = None
    if isinstance(method, PatchBank) and isinstance(state, MemoryBank):
        bank = state.to(runtime.device)
        patches = method.embed(taps, runtime.device)[0]
        depth = 1 if defect is None else min(DEPTH, len(bank.rows))
        distances, rows = (found.cpu() for found in nearest_rows(patches, bank.blocks(), depth, runtime))
        sources = bank.source.cpu()[rows]
        values = distances[:, 0].unflatten(0, patch_grid(taps, method.patch_size, method.stride))
    sought = [torch.from_numpy(defect)] if defect is not None else []
    sought += [region.cpu()] if region is not None else []
    if sought:
        joint = torch.stack(sought).all(dim=0)
        if not joint.any():
            return None
        inside = inspected_cells(joint, values.shape)
        if defect is not None and distances is not None and sources is not None:
            values = _without_one(distances, sources, inside.flatten()).unflatten(0, tuple(values.shape))
        values = values.masked_fill(~inside, -torch.inf)
    row, column = divmod(int(values.argmax()), values.shape[1])
    return (row + 0.5) / values.shape[0], (column + 0.5) / values.shape[1]


def _without_one(distances: Tensor, sources: Tensor, inside: Tensor) -> Tensor:
    """Distances (P,) to the bank without the image whose absence raises their maximum `inside` most.

    Args:
        distances: (P, depth), nearest first.
        sources: (P, depth), the images that they are to.
        inside: (P,) bool.
    """
    best = distances[:, 0]
    for image in sources[inside, 0].unique().tolist():
        other = sources != image
        # Where all that were found are of this image, the last of them is a lower bound.
        first = other.byte().argmax(dim=1).masked_fill(~other.any(dim=1), distances.shape[1] - 1)
        without = distances.gather(1, first[:, None])[:, 0]
        if without[inside].max() > best[inside].max():
            best = without
    return best


def sources_at(
    method: Method[Any], state: Any, taps: list[Tensor], place: Place, count: int, runtime: Runtime
) -> list[Source]:
    """The nearest patches of training images at a place, nearest first, in each layer that is kept apart.

    Args:
        method: that `why_unknown` has nothing against.
        state: as it scores.
        taps: of one image that the state has not learnt, each (1, C, h, w).
        place: where.
        count: how many; fewer where there are fewer.
        runtime: device and memory budget.

    Raises:
        TypeError: the method does not know its sources.
    """
    if isinstance(method, PatchBank) and isinstance(state, MemoryBank):
        return _of_bank(method, state.to(runtime.device), taps, place, count, runtime)
    if isinstance(method, Spade) and isinstance(state, Pyramids):
        return _of_pyramids(method, state, taps, place, count, runtime)
    if isinstance(method, Rad) and isinstance(state, Pyramids):
        return _of_retrieved(method, state, taps, place, count)
    if isinstance(method, SuperAdd) and isinstance(state, LayerBanks):
        return [
            source
            for layer, tap in enumerate(taps)
            for source in _of_layer(state.to(runtime.device), layer, tap.to(runtime.device), place, count, runtime)
        ]
    if isinstance(method, Hetmm) and isinstance(state, TemplateSet):
        return _of_templates(method, state, taps, place, count)
    raise TypeError(why_unknown(method))


def _of_bank(
    method: PatchBank, bank: MemoryBank, taps: list[Tensor], place: Place, count: int, runtime: Runtime
) -> list[Source]:
    grid = patch_grid(taps, method.patch_size, method.stride)
    row, column = _cell(place, grid)
    patch = method.embed(taps, runtime.device)[0, row * grid[1] + column]
    distances, rows = nearest_rows(patch[None], bank.blocks(), min(count, len(bank.rows)), runtime)
    size = method.patch_size / taps[0].shape[2], method.patch_size / taps[0].shape[3]
    found = []
    for distance, number in zip(distances[0].tolist(), rows[0].tolist(), strict=True):
        image = bank.image_ids[int(bank.source[number])]
        row, column = unturned_cell(int(bank.place[number]), grid, method.turns)
        found.append(Source(image, _centre(row * grid[1] + column, grid), size, distance))
    return found


def _of_layer(state: LayerBanks, layer: int, tap: Tensor, place: Place, count: int, runtime: Runtime) -> list[Source]:
    grid, bank = _grid(tap), state.bank(layer)
    row, column = _cell(place, grid)
    distances, rows = nearest_rows(tap[:, :, row, column], bank.blocks(), min(count, len(bank.rows)), runtime)
    found = []
    for distance, number in zip(distances[0].tolist(), rows[0].tolist(), strict=True):
        image, size = bank.image_ids[int(bank.source[number])], (1 / grid[0], 1 / grid[1])
        found.append(Source(image, _centre(int(bank.place[number]), grid), size, distance, layer + 1))
    return found


def _of_pyramids(
    method: Spade, state: Pyramids, taps: list[Tensor], place: Place, count: int, runtime: Runtime
) -> list[Source]:
    from ad_assets.kernels.nearest.search import nearest

    ((_, images),) = method.retrieved(state, method.pooled(taps), Batch(taps, (1, 1)))
    (queries,), grid = method.vectors(taps), _grid(taps[0])
    row, column = _cell(place, grid)
    vectors = state.vectors[0][images.cpu()].flatten(0, 1).to(runtime.device)
    query = queries[0, row * grid[1] + column][None].to(runtime.device)
    distances, rows = nearest(query, vectors, min(count, len(vectors)), memory_gb=runtime.budget_gb(vectors.device))
    found = []
    for distance, number in zip(distances[0].tolist(), rows[0].tolist(), strict=True):
        image, where = divmod(number, grid[0] * grid[1])
        size = 1 / grid[0], 1 / grid[1]
        found.append(Source(state.image_ids[int(images[image])], _centre(where, grid), size, distance))
    return found


def _of_retrieved(method: Rad, state: Pyramids, taps: list[Tensor], place: Place, count: int) -> list[Source]:
    ((_, images),) = method.retrieved(state, method.pooled(taps), Batch(taps, (1, 1)))
    found = []
    for layer, (tap, vectors) in enumerate(zip(compared(taps), state.vectors, strict=True)):
        near = vectors[images.to(vectors.device)].transpose(0, 1).unflatten(0, _grid(tap))
        reach = max(_grid(tap)) if method.radius is None else method.radius
        for y, x, template, source in _within(near, layer, tap, place, reach, count):
            del y, x
            found.append(replace(source, image_id=state.image_ids[int(images[template])]))
    return found


def _of_templates(method: Hetmm, state: TemplateSet, taps: list[Tensor], place: Place, count: int) -> list[Source]:
    """Those that the forward distance (equation 4) of the place is to: within the window, of all templates."""
    found = []
    for layer, (tap, near) in enumerate(zip(taps, state.templates, strict=True)):
        for y, x, template, source in _within(near, layer, tap, place, method.windows[layer] // 2, count):
            image = int(state.sources[layer][y, x, template]) if state.sources else template
            found.append(replace(source, image_id=state.image_ids[image]))
    return found


def _within(
    templates: Tensor, layer: int, tap: Tensor, place: Place, reach: int, count: int
) -> Iterator[tuple[int, int, int, Source]]:
    """Yield row, column, number and source, without its image, of the templates (H, W, T, C) nearest to a place by
    cosine, of those at most `reach` cells away along rows and columns."""
    from torch.nn.functional import normalize

    grid = _grid(tap)
    row, column = _cell(place, grid)
    top, left = max(row - reach, 0), max(column - reach, 0)
    near = templates[top : row + reach + 1, left : column + reach + 1].cpu()
    cosines = near @ normalize(tap.cpu(), dim=1)[0, :, row, column]
    best = cosines.flatten().topk(min(count, cosines.numel()))
    for cosine, number in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        y, rest = divmod(number, cosines.shape[1] * cosines.shape[2])
        x, template = divmod(rest, cosines.shape[2])
        centre = (top + y + 0.5) / grid[0], (left + x + 0.5) / grid[1]
        size = 1 / grid[0], 1 / grid[1]
        yield top + y, left + x, template, Source("", centre, size, 1 - cosine, layer + 1)


def _grid(tap: Tensor) -> tuple[int, int]:
    return tap.shape[2], tap.shape[3]


def _cell(place: Place, grid: tuple[int, int]) -> tuple[int, int]:
    row, column = (min(int(part * cells), cells - 1) for part, cells in zip(place, grid, strict=True))
    return row, column


def _centre(number: int, grid: tuple[int, int]) -> Place:
    row, column = divmod(number, grid[1])
    return (row + 0.5) / grid[0], (column + 0.5) / grid[1]
