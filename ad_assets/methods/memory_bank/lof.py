"""PatchCore-LoF: local outlier factors (Breunig et al., SIGMOD 2000) of patches in a memory bank.

Zhang et al. (That's BAD, 2023, section 5.1) compare PatchCluster with it: all patches, 100 neighbours.

With the k nearest rows of a patch p, itself left out: reach(p, o) = max(k-distance(o), distance(p, o)); density(p) is
the inverse of its mean; the score is the mean density of the rows over the density of p. Densities of rows are those
among all rows; images that the bank has not seen are compared with them, as scikit-learn does for novelties. A small
constant keeps the densities of duplicates finite, as there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from ad_assets.methods.base import fit_field, register, score_field
from ad_assets.methods.data import Batch, Features, Frame, LoadMatches, Matches, ScoreMaps, by_image, together
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.memory_bank.patch_bank import PatchBank
from ad_assets.methods.memory_bank.search import neighbours
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.scoring_graph import ScoringGraph

SMALLEST_REACH = 1e-10


@register
class PatchCoreLof(PatchBank):
    """How much denser the bank is around a patch's neighbours than around the patch.

    >>> PatchCoreLof().stage_config("fit") == PatchCoreLof(neighbours=20).stage_config("fit")
    True
    """

    name: ClassVar[str] = "patchcore_lof"
    version: ClassVar[int] = 1
    matched: ClassVar[tuple[Literal["train", "test"], ...]] = ("train", "test")

    coreset_ratio: float = fit_field(1.0, gt=0, le=1, description="part of the patches kept; 1 keeps all")

    neighbours: int = score_field(100, ge=1, description="rows that make a patch's surroundings")

    @model_validator(mode="after")
    def _rows_are_patches(self) -> Self:
        if self.subsampling == "proxies":
            raise ValueError("subsampling: a proxy is no patch, so what lies around it is not known; greedy or random")
        if self.turns != 1:
            raise ValueError("turns: densities of rows are those of matched images, and turned ones are not; write 1")
        return self

    def n_neighbours(self, images: int) -> int:
        """`neighbours`, whatever the number of images."""
        del images
        return self.neighbours

    def prepare(
        self, state: MemoryBank, train: Features, runtime: Runtime, load_matches: LoadMatches | None = None
    ) -> MemoryBank:
        """Work out the densities of all rows from the matches of their patches."""
        import torch

        if load_matches is None:
            matched: dict[str, Matches] = {}
            for ids, matches in self.match(state, train, runtime):
                matched |= by_image(ids, matches)
            load_matches = lambda ids: together(ids, matched)  # noqa: E731
        k_distances = torch.empty(len(state.rows), dtype=torch.float64)
        densities = torch.empty_like(k_distances)
        for target in (k_distances, densities):
            for ids in train.id_batches():
                distances, rows = neighbours(state, load_matches(ids), ids, None, self.neighbours, "self")
                distances = distances.double()
                values = distances[:, :, -1] if target is k_distances else _density(distances, k_distances[rows])
                own = state.own_rows(ids, distances.shape[1])
                target[own[own >= 0]] = values[own >= 0]
        return replace(state, densities=[k_distances, densities])

    def without(self, state: MemoryBank, image_ids: Collection[str], train: Features, runtime: Runtime) -> MemoryBank:
        """The bank without the rows of some images, with the densities that its rows then have."""
        bank = super().without(state, image_ids, train, runtime)
        return self.prepare(bank, replace(train, image_ids=tuple(bank.image_ids)), runtime)

    @property
    def join_fault(self) -> str:
        """The densities of rows are those among all rows."""
        return "densities are those among all rows, so that each category would search all rows of all others anew"

    def graph(self, frame: Frame) -> ScoringGraph:
        """As `Method.graph`."""
        from ad_assets.methods.memory_bank.scoring_graphs import LofGraph

        return LofGraph(self, frame, SMALLEST_REACH)

    def score(self, state: MemoryBank, batch: Batch, runtime: Runtime) -> ScoreMaps:
        """Local outlier factors, and the largest of an image."""
        distances, rows = self.neighbours_of(state, batch, runtime, "self")
        k_distances, densities = (values.to(distances.device) for values in state.densities)
        own = _density(distances.double(), k_distances[rows])
        factors = self.inspected(batch).filled((densities[rows].mean(dim=2) / own).float())
        return self.score_maps(batch, factors, factors.amax(dim=1))


def _density(distances: Tensor, k_distances: Tensor) -> Tensor:
    """(B, P): from distances to the neighbours (B, P, k) and their k-distances."""
    reach = distances.maximum(k_distances)
    return 1 / (reach.mean(dim=2) + SMALLEST_REACH)
