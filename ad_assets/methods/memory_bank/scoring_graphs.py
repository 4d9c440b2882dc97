"""The scoring graphs of the methods on memory banks; each bank is an input, of any number of rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.scoring_graph import (
    Blur,
    Inspected,
    PatchEmbedding,
    ScoringGraph,
    StateInput,
    nearest_rows,
    outside,
    upsampled,
)

if TYPE_CHECKING:
    from ad_assets.methods.data import Frame
    from ad_assets.methods.memory_bank.anomalydino import AnomalyDino
    from ad_assets.methods.memory_bank.layer_banks import LayerBanks
    from ad_assets.methods.memory_bank.lof import PatchCoreLof
    from ad_assets.methods.memory_bank.patch_bank import PatchBank
    from ad_assets.methods.memory_bank.patchcluster import PatchCluster
    from ad_assets.methods.memory_bank.patchcore import PatchCore
    from ad_assets.methods.memory_bank.superadd import SuperAdd

EXAMPLE_ROWS = 64  # beyond the neighbours, of the bank that stands for all banks while the graph is written down


class Neighbours(NamedTuple):
    """Patches (P, D) of an image, and the distances (P, n) to the nearest rows (P, n) of each, nearest first."""

    patches: Tensor
    distances: Tensor
    rows: Tensor


class BankGraph(ScoringGraph):
    """What they have in common: patches, their nearest rows, and the map of their scores.

    Args:
        method: the configured method.
        frame: as `ScoringGraph` has it.
        neighbours: that a score reads.
        beside: what is known of each row beside it.
    """

    def __init__(
        self, method: PatchBank, frame: Frame, neighbours: int, beside: Mapping[str, torch.dtype] | None = None
    ) -> None:
        embedding = PatchEmbedding(
            frame,
            patch_size=method.patch_size,
            stride=method.stride,
            pre_dimensions=method.pre_dimensions,
            dimensions=method.dimensions,
            pooling=method.pooling,
        )
        rows = neighbours + EXAMPLE_ROWS
        known = {name: StateInput((rows,), dtype, follows=(0,)) for name, dtype in (beside or {}).items()}
        super().__init__(frame, [embedding.grid], {"bank": StateInput((rows, embedding.size), follows=(0,)), **known})
        self.embedding, self.neighbours = embedding, neighbours
        self.blur = Blur(frame.map_size, method.sigma)

    def forward(self, taps: list[Tensor], state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As `ScoringGraph.forward`."""
        patches = self.patches(taps)
        found = Neighbours(patches, *nearest_rows(patches, state["bank"], self.neighbours))
        inspected = Inspected(state)
        scores = inspected.filled(self.patch_scores(found, state))
        score_map = self.blur(upsampled(scores, self.embedding.grid, self.frame.map_size))
        return outside(score_map, state), self.image_score(found, scores, inspected, state)

    def patches(self, taps: list[Tensor]) -> Tensor:
        """(P, D)."""
        described: Tensor = self.embedding(taps)
        return described

    @abstractmethod
    def patch_scores(self, found: Neighbours, state: Mapping[str, Tensor]) -> Tensor:
        """(P,)."""

    def image_score(
        self, found: Neighbours, scores: Tensor, inspected: Inspected, state: Mapping[str, Tensor]
    ) -> Tensor:
        """The largest of the scores (P,)."""
        del found, inspected, state
        return scores.max()

    def tensors(self, state: MemoryBank) -> dict[str, Tensor]:
        """The rows."""
        return {"bank": state.rows}


class PatchCoreGraph(BankGraph):
    """Equation 6, and equation 6 or 7 for the image."""

    def __init__(self, method: PatchCore, frame: Frame) -> None:
        super().__init__(method, frame, method.neighbours)
        self.squared = method.squared
        self.around = method.b if method.image_score == "reweighted" else 0

    def patch_scores(self, found: Neighbours, state: Mapping[str, Tensor]) -> Tensor:
        """Mean distances."""
        del state
        return (found.distances.square() if self.squared else found.distances).mean(dim=1)

    def image_score(
        self, found: Neighbours, scores: Tensor, inspected: Inspected, state: Mapping[str, Tensor]
    ) -> Tensor:
        """The largest score, or the re-weighted one."""
        if not self.around:
            return scores.max()
        worst = inspected.place(inspected.filled(found.distances[:, 0]).argmax())
        patch, match = found.patches[worst].double(), state["bank"][found.rows[worst, 0]]
        to_match = (match.double() - patch).square().sum().sqrt()
        to_around = distances_around(patch, match, state["bank"], self.around)
        return ((1 - (to_match - to_around.logsumexp(dim=0)).exp()) * to_match).float()


class AnomalyDinoGraph(BankGraph):
    """Cosine distances, and the mean of the highest."""

    def __init__(self, method: AnomalyDino, frame: Frame) -> None:
        super().__init__(method, frame, method.neighbours)
        self.image_share = method.image_share

    def patches(self, taps: list[Tensor]) -> Tensor:
        """Of length one."""
        return normalize(super().patches(taps), dim=1)

    def patch_scores(self, found: Neighbours, state: Mapping[str, Tensor]) -> Tensor:
        """Half the mean squared distances."""
        del state
        return found.distances.square().mean(dim=1) / 2

    def image_score(
        self, found: Neighbours, scores: Tensor, inspected: Inspected, state: Mapping[str, Tensor]
    ) -> Tensor:
        """How many are the highest follows the region of interest, which is an input."""
        del found, state
        cells = torch.arange(scores.shape[0], device=scores.device)
        inside = inspected.place(cells) == cells
        count = (inside.sum().double() * self.image_share).floor().clamp(min=1)
        highest = torch.where(inside, scores, -torch.inf).sort(descending=True).values
        return torch.where(cells < count, highest, 0.0).sum() / count.float()


class PatchClusterGraph(BankGraph):
    """Equations 2 and 3."""

    def __init__(self, method: PatchCluster, frame: Frame) -> None:
        neighbours = method.n_neighbours(1)
        super().__init__(method, frame, neighbours)
        self.around = (method.b or max(neighbours, 2)) if method.image_score == "reweighted" else 0

    def patch_scores(self, found: Neighbours, state: Mapping[str, Tensor]) -> Tensor:
        """Mean distances."""
        del state
        return found.distances.mean(dim=1)

    def image_score(
        self, found: Neighbours, scores: Tensor, inspected: Inspected, state: Mapping[str, Tensor]
    ) -> Tensor:
        """The largest score, or times its weight."""
        if not self.around:
            return scores.max()
        worst = inspected.place(scores.argmax())
        to_around = distances_around(
            found.patches[worst].double(), state["bank"][found.rows[worst, 0]], state["bank"], self.around
        )
        largest = scores.max()
        weight = (1 - (largest.double() - to_around.logsumexp(dim=0)).exp()).clamp(min=0).float()
        return largest * weight


class LofGraph(BankGraph):
    """Local outlier factors; the densities of the rows are a part of the state."""

    def __init__(self, method: PatchCoreLof, frame: Frame, smallest_reach: float) -> None:
        beside = {"k_distances": torch.float64, "densities": torch.float64}
        super().__init__(method, frame, method.neighbours, beside)
        self.smallest_reach = smallest_reach

    def patch_scores(self, found: Neighbours, state: Mapping[str, Tensor]) -> Tensor:
        """Densities of the rows over those of the patches."""
        reach = found.distances.double().maximum(state["k_distances"][found.rows])
        own = 1 / (reach.mean(dim=1) + self.smallest_reach)
        return (state["densities"][found.rows].mean(dim=1) / own).float()

    def tensors(self, state: MemoryBank) -> dict[str, Tensor]:
        """The rows, with their k-distances and densities."""
        k_distances, densities = state.densities
        return {"bank": state.rows, "k_distances": k_distances, "densities": densities}


class SuperAddGraph(ScoringGraph):
    """Distances to the nearest rows of a bank for each layer, averaged on the grid of the first."""

    def __init__(self, method: SuperAdd, frame: Frame) -> None:
        self.cell_grids = [(shape[1], shape[2]) for shape in frame.taps]
        inputs = {
            f"bank.{layer}": StateInput((EXAMPLE_ROWS, shape[0]), follows=(0,))
            for layer, shape in enumerate(frame.taps)
        }
        super().__init__(frame, self.cell_grids, inputs)
        self.blur = Blur(frame.map_size, method.sigma)

    def forward(self, taps: list[Tensor], state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As `ScoringGraph.forward`."""
        first, parts = self.cell_grids[0], []
        for layer, (tap, grid) in enumerate(zip(taps, self.cell_grids, strict=True)):
            distances, _ = nearest_rows(tap.flatten(2)[0].T, state[f"bank.{layer}"], 1)
            cells = Inspected(state, layer).filled(distances[:, 0] / tap.shape[1])
            parts.append(cells if layer == 0 else upsampled(cells, grid, first).flatten())
        scores = Inspected(state).filled(torch.stack(parts).mean(dim=0))
        return outside(self.blur(upsampled(scores, first, self.frame.map_size)), state), scores.max()

    def tensors(self, state: LayerBanks) -> dict[str, Tensor]:
        """The rows of each layer."""
        return {f"bank.{layer}": rows for layer, rows in enumerate(state.rows)}


def distances_around(patch: Tensor, row: Tensor, bank: Tensor, count: int) -> Tensor:
    """(count,) float64: how far a patch (D,) float64 is from the rows nearest to a row (D,); infinity beyond the last,
    negated: what is summed as exponentials then counts for nothing."""
    found, around = nearest_rows(row[None], bank, count)
    distances = (bank[around[0]].double() - patch).square().sum(dim=1).sqrt()
    return torch.where(found[0].isfinite(), distances, -torch.inf)
