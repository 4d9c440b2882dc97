"""A coreset of patches by greedy k-centre selection on a random projection (Roth et al., PatchCore, Algorithm 1).

Only projected patches are read often: those in all dimensions are read in blocks, to project them, to gather those that
are chosen, and to measure the covering radius.

In parts, merge and reduce: of each part of the patches `OVERSAMPLING` times as many as its share are selected, though
no more than `MOST_KEPT` of it or its share, and the coreset among these. With r the covering radius of the selections
and s that of the coreset among them, no patch is farther than r + s from the coreset (figures: docs/speed.md). Greedy
selection is within twice the smallest radius each time; with as many of each part as of all, the whole is within four
times it (Malkomes et al., NeurIPS 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.memory_bank.patch_rows import PatchRows
    from ad_assets.methods.runtime import Runtime

OFFICIAL_ANCHORS = 10
BOUNDS, PROJECTED = "the bounds of the selection", "the projected patches"
# Of the selections in parts: 2 times a part's share cost a fifth of the covering radius, 8 next to nothing
# (docs/speed.md). What is kept of a part bounds the time of the selection among them.
OVERSAMPLING, MOST_KEPT = 8, 0.4
BYTES_A_PATCH = 40  # that the selection holds of each patch beside its projection: bounds, and which pick they are to


@dataclass(frozen=True)
class Selection:
    """How rows are made; see the parameters of `PatchBank`."""

    way: Literal["all", "greedy", "random", "proxies"]
    projection: int | None
    anchors: Literal["clean", "official"]
    parts: int
    seed: int


@dataclass(frozen=True)
class Kept:
    """The rows of a bank.

    Args:
        rows: (M, D) float32 on the CPU.
        picks: (M,) int64, which patches they are; -1: none.
        covering_radius: largest L2 distance of any patch to a row, feature units.
    """

    rows: Tensor
    picks: Tensor
    covering_radius: float


def greedy(patches: PatchRows, count: int, selection: Selection, runtime: Runtime, known: Tensor | None) -> Kept:
    """As `select`, by greedy selection; rows that are known count as one part."""
    from ad_assets.kernels.coverage import radius_of_picks

    selector = _Selector(patches, selection, runtime)
    projected = selector.project
    if selection.parts == 1 or known is not None:
        seen = selector.seen(slice(0, len(patches)))
        picks = selector.pick(seen, count, known)
        seen_bank = seen[picks.to(seen.device)]
        projected = lambda first, block: seen[first : first + len(block)]  # noqa: E731
    else:
        picks, seen_bank = selector.pick_in_parts(count)
    rows = patches.gather(picks)
    radius = radius_of_picks(patches, rows.to(runtime.device), seen_bank, projected, runtime.budget_gb(runtime.device))
    return Kept(rows, picks, radius)


def selection_needs(
    selection: Selection, patches: int, count: int, dimensions: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes that the selection of so many of the patches holds at once, and those that may lie in a temporary file."""
    values = min(selection.projection or dimensions, dimensions)
    if selection.parts == 1:
        return {BOUNDS: _bounds_bytes(patches, count, values)}, {PROJECTED: 4 * values * patches}
    part = -(-patches // selection.parts)
    own = _wanted(part, count, patches)
    among = min(patches, own * selection.parts)
    bounds = max(_bounds_bytes(part, own, values), _bounds_bytes(among, count, values))
    return {BOUNDS: bounds}, {PROJECTED: 4 * values * part, "the selections of all parts": 4 * values * among}


def _wanted(part: int, count: int, total: int) -> int:
    """How many of a part of the patches are selected, where `count` of all are."""
    share = -(-count * part // total)
    return min(part, max(share, min(OVERSAMPLING * share, int(MOST_KEPT * part))))


def _bounds_bytes(patches: int, count: int, values: int) -> int:
    return BYTES_A_PATCH * patches + (4 * values + 8) * count


class _Selector:
    """The selection among patches as they are seen: projected."""

    def __init__(self, patches: PatchRows, selection: Selection, runtime: Runtime) -> None:
        import torch

        self.patches, self.selection, self.runtime = patches, selection, runtime
        self.values = min(selection.projection or patches.shape[1], patches.shape[1])
        self.generator = torch.Generator().manual_seed(selection.seed)
        self.budget = runtime.budget_gb(runtime.device)

    def project(self, first: int, block: Tensor) -> Tensor:
        """Rows (n, D), whichever they are, as they are seen: (n, values), on the device."""
        from ad_assets.kernels.coverage import random_projection

        del first
        if self.values == block.shape[1]:
            return block.to(self.runtime.device)
        return random_projection(block, self.values, seed=self.selection.seed, device=self.runtime.device)

    def seen(self, part: slice) -> Tensor:
        """(n, values) of a part of the patches, on the device; of a CPU beyond its budget in a temporary file."""
        from ad_assets.kernels.coverage import block_rows

        self._check_device(part.stop - part.start)
        if self.values == self.patches.shape[1] and self.patches.held is not None:
            return self.patches.held[part].to(self.runtime.device)
        seen, done = self._room(part.stop - part.start), 0
        for block in self.patches.blocks(block_rows(self.patches.shape[1], self.runtime.memory_gb), part):
            seen[done : done + len(block)] = self.project(done, block)
            done += len(block)
        return seen

    def pick(self, seen: Tensor, count: int, known: Tensor | None = None) -> Tensor:
        """Which rows of `seen` are chosen, (count,) int64 on the CPU, in the order of choice."""
        import torch

        from ad_assets.kernels.coreset import greedy_coreset
        from ad_assets.kernels.nearest.search import nearest

        need = 1e-9 * _bounds_bytes(len(seen), count, self.values)
        self.runtime.check_budget(BOUNDS, need, f"{count} of {len(seen)} patches", self._remedy)
        start, initial = 0, None
        if known is not None:
            initial = nearest(seen, self.project(0, known), 1, memory_gb=self.budget)[0][:, 0]
        elif self.selection.anchors == "official":
            anchors = torch.randint(len(seen), (OFFICIAL_ANCHORS,), generator=self.generator).to(seen.device)
            initial = torch.cdist(seen, seen[anchors], compute_mode="donot_use_mm_for_euclid_dist").mean(dim=1)
        else:
            start = int(torch.randint(len(seen), (1,), generator=self.generator))
        picks = greedy_coreset(
            seen,
            count,
            start=start,
            initial=initial,
            memory_gb=self.budget,
            report=lambda done, total: self.runtime.report("coreset rows chosen", done, total),
        ).cpu()
        if len(picks) != count:
            raise AssertionError(f"the coreset has {len(picks)} rows instead of {count}")
        return picks

    def pick_in_parts(self, count: int) -> tuple[Tensor, Tensor]:
        """Which patches are chosen, (count,) int64 on the CPU, and these as they are seen, (count, values)."""
        import torch

        from ad_assets.kernels.parallel import spans

        total = len(self.patches)
        parts = spans(total, -(-total // self.selection.parts))
        wanted = [_wanted(each.stop - each.start, count, total) for each in parts]
        self._check_device(sum(wanted))
        numbers, among, done = [], self._room(sum(wanted)), 0
        for each, own in zip(parts, wanted, strict=True):
            seen = self.seen(each)
            picks = self.pick(seen, own)
            numbers.append(picks + each.start)
            among[done : done + own] = seen[picks.to(seen.device)]
            done += own
            self.runtime.report("parts selected from", len(numbers), len(parts))
        chosen = self.pick(among, count)
        return torch.cat(numbers)[chosen], among[chosen.to(among.device)]

    def _room(self, rows: int) -> Tensor:
        import torch

        if self.runtime.device.startswith("cpu"):
            return self.runtime.empty(PROJECTED, rows, self.values)
        return torch.empty(rows, self.values, device=self.runtime.device)

    def _check_device(self, rows: int) -> None:
        parts = f"{rows} patches, {self.values} float32"
        self.runtime.check_device("the patches to select from", 4e-9 * rows * self.values, parts, self._remedy)

    @property
    def _remedy(self) -> str:
        """What makes the selection smaller: more parts, until the merged selections are what is large."""
        return (
            f"select in more parts (parts: {2 * self.selection.parts}), choose a lower coreset_ratio, a smaller "
            "preselect, or a narrower projection"
        )
