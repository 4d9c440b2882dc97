"""Which training images a memory bank matches test images with, and what a batch of them changed by that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ad_assets.methods.memory_bank.bank import MemoryBank, unturned_cell
from ad_assets.methods.memory_bank.patch_bank import PatchBank
from ad_assets.methods.memory_bank.search import nearest_rows
from ad_assets.methods.patch_embedding import patch_grid
from ad_assets.methods.region_of_interest import inspected_cells
from ad_assets.prediction.refits import Refits, labels_by_id

if TYPE_CHECKING:
    from torch import Tensor

DEPTH = 16  # nearest rows among which one of another batch is sought
RANKED = ("image_auroc", "image_ap")


@dataclass(frozen=True)
class Win:
    """What one training image changed.

    Args:
        image_id: the training image.
        patches: patches of test images whose score it lowered and that were among the hottest of their image before.
        images: anomalous test images that these belong to.
        example: the test image whose hottest patch fell most.
        test_place: that patch: row and column of the grid, from 0.
        train_place: the patch of the training image that it now matches.
        distances: from the test patch to the bank, before and after.
        grid: rows and columns of the grid.
    """

    image_id: str
    patches: int
    images: int
    example: str
    test_place: tuple[int, int]
    train_place: tuple[int, int]
    distances: tuple[float, float]
    grid: tuple[int, int]


def batches_by_gain(refits: Refits, state: Any, arrived: Mapping[str, int]) -> list[int]:
    """Batches by what the metric would gain without their rows in a bank, most first; those that gain alone.

    An estimate from one search: rows are left out, and none selected in their place. Empty where the state does not
    know its images, or the metric does not rank image scores.
    """
    if not isinstance(state, MemoryBank) or not isinstance(refits.method, PatchBank) or refits.metric not in RANKED:
        return []
    import numpy as np

    from ad_assets.metrics import ranking

    measure = {"image_auroc": ranking.auroc, "image_ap": ranking.average_precision}[refits.metric]
    batch_of = np.array([arrived[image] for image in state.image_ids] + [0])  # the last: of no image in particular
    labels = labels_by_id(refits.truth)
    positions = {image: number for number, image in enumerate(labels)}
    scores = np.zeros(len(positions))
    changed: dict[int, dict[int, float]] = defaultdict(dict)
    for image_id, distances, rows in _matches(refits, state):
        batches = batch_of[state.source.cpu()[rows].numpy()]
        nearest, first = distances[:, 0].numpy(), batches[:, 0]
        other = batches != first[:, None]
        instead = distances.numpy()[np.arange(len(rows)), np.where(other.any(1), other.argmax(1), -1)]
        position = positions[image_id]
        scores[position] = nearest.max()
        for batch in np.unique(first):
            without = np.where(first == batch, instead, nearest).max()
            if without > scores[position]:
                changed[int(batch)][position] = float(without)
    truth = list(labels.values())
    reached = measure(scores, truth)
    gains = {}
    for batch, own in changed.items():
        moved = scores.copy()
        moved[list(own)] = list(own.values())
        gains[batch] = measure(moved, truth) - reached
    return sorted((batch for batch, gain in gains.items() if gain > 0 and batch), key=lambda batch: -gains[batch])


def won_matches(refits: Refits, before: MemoryBank, after: MemoryBank, added: Collection[str]) -> tuple[Win, ...]:
    """The images of a batch that lowered the hottest patches of anomalous test images, by how many they lowered.

    A patch counts as hottest where its distance to the bank before was larger than the image's score is after: had it
    not been matched, the score would not have fallen. Empty where the states do not know their images.
    """
    if (
        not isinstance(before, MemoryBank)
        or not isinstance(after, MemoryBank)
        or not isinstance(refits.method, PatchBank)
    ):
        return ()
    anomalous = {image for image, label in labels_by_id(refits.truth).items() if label}
    earlier = {image: distances[:, 0] for image, distances, _ in _matches(refits, before, anomalous)}
    patches: dict[str, int] = defaultdict(int)
    images: dict[str, set[str]] = defaultdict(set)
    falls: dict[str, tuple[float, Win]] = {}
    grid = (after.grid[0], after.grid[1])
    for image_id, distances, rows in _matches(refits, after, anomalous):
        now, then = distances[:, 0], earlier[image_id]
        for patch in ((then > now.max()) & (now < then)).nonzero().flatten().tolist():
            row = int(rows[patch, 0])
            source = after.image_ids[int(after.source[row])] if int(after.source[row]) >= 0 else ""
            if source not in added:
                continue
            patches[source] += 1
            images[source].add(image_id)
            pair = (float(then[patch]), float(now[patch]))
            places = (divmod(patch, grid[1]), unturned_cell(int(after.place[row]), grid, refits.method.turns))
            if source not in falls or pair[0] - pair[1] > falls[source][0]:
                falls[source] = (pair[0] - pair[1], Win(source, 0, 0, image_id, *places, pair, grid))
    wins = [
        Win(each, patches[each], len(images[each]), win.example, win.test_place, win.train_place, win.distances, grid)
        for each, (_, win) in falls.items()
    ]
    return tuple(sorted(wins, key=lambda win: (-win.patches, win.image_id)))


def _matches(
    refits: Refits, bank: MemoryBank, only: Collection[str] | None = None
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield image id, distances and rows (P, depth) of the nearest rows of the patches of test images.

    Patches outside the region of interest have distances of 0, which no score is.
    """
    method, runtime = refits.method, refits.runtime
    if not isinstance(method, PatchBank):
        raise TypeError(f"{method.name} has no bank of patches")
    bank = bank.to(runtime.device)
    images = refits.features(refits.truth.positions if only is None else only)
    for ids, taps in images.batches():
        patches = method.embed(taps, runtime.device)
        grid = patch_grid(taps, method.patch_size, method.stride)
        inside = None if refits.region is None else inspected_cells(refits.region, grid).flatten()
        for number, image_id in enumerate(ids):
            distances, rows = nearest_rows(patches[number], bank.blocks(), min(DEPTH, len(bank.rows)), runtime)
            distances = distances.cpu()
            yield image_id, distances if inside is None else distances * inside[:, None], rows.cpu()
