"""A bank of locally aware patch features and the search in it: what PatchCore, PatchCluster and their like share.

Fit: patch features of all training images (Roth et al., PatchCore, CVPR 2022, section 3.1), thinned by greedy k-centre
selection on a random projection (section 3.2, Algorithm 1) or by one of the ways that it is compared with (section
4.4.2). Match: the nearest rows of every patch, kept as an asset. The methods differ in what they make of them; those
with the same settings here share one bank and one search.

In blind settings (Zhang et al., That's BAD, 2023) images are scored with a bank that they are part of. Their patches
start from the second neighbour, as in that paper, whether or not the first is the patch itself. Images that the bank
has never seen start from the first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from ad_assets.kernels.nearest.faiss_build import faiss_fault
from ad_assets.methods.base import Method, Stage, fit_field, match_field, score_field
from ad_assets.methods.data import Batch, Features, Matches, ScoreMaps, by_image, check_finite, together
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.memory_bank.coreset import Selection, selection_needs
from ad_assets.methods.memory_bank.growth import BankGrowth, GrownRows
from ad_assets.methods.memory_bank.patch_rows import PatchRows
from ad_assets.methods.memory_bank.search import (
    Skip,
    codes_of,
    match_bank_with_itself,
    match_patches,
    nearest_rows,
    neighbours,
    pairs_needs,
    with_narrow_rows,
)
from ad_assets.methods.memory_bank.search_quality import quality_of_codes
from ad_assets.methods.memory_bank.subsampling import drawn_places, radius_around, select
from ad_assets.methods.needs import Needs
from ad_assets.methods.operations import Operations
from ad_assets.methods.patch_embedding import Pooling, embed, patch_grid
from ad_assets.methods.region_of_interest import InspectedGrid, learnt_places, without_outside
from ad_assets.methods.runtime import Runtime
from ad_assets.methods.state import State

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.kernels.nearest.ivfpq import QuantisedIndex

BANK_VERSION = 2
MATCH_VERSION = 1
IVFPQ_VERSION = 2  # beside the version of all matches, of approximate search alone
IVFPQ_FOLDS = 8
# In products of a search: to make a value of a patch, and a map of it; a product of a selection.
VALUE_OPERATIONS, PICK_OPERATIONS = 1000, 0.3


class PatchBank(Method[MemoryBank]):
    """What the methods on a memory bank have in common."""

    lengths: ClassVar[tuple[str, ...]] = ("sigma",)
    state_asset: ClassVar[Literal["template_set", "memory_bank", "trained_model"]] = "memory_bank"
    state_type: ClassVar[type[State]] = MemoryBank
    matched: ClassVar[tuple[Literal["train", "test"], ...]] = ("test",)
    later: ClassVar[frozenset[str]] = Method.later | {"parts", "turns"}

    pooling: Pooling = fit_field("authors", description="how a neighbourhood becomes a vector; see patch_embedding.py")
    patch_size: int = fit_field(3, ge=1, description="side of the neighbourhood in cells")
    stride: int = fit_field(1, ge=1, description="step between patches in cells")
    pre_dimensions: int = fit_field(1024, ge=1, description="values a tap is pooled to (authors)")
    dimensions: int = fit_field(1024, ge=1, description="values a patch ends up with (authors)")
    coreset_ratio: float = fit_field(0.1, gt=0, le=1, description="part of the patches kept; 1 keeps all")
    preselect: float = fit_field(
        1.0,
        gt=0,
        le=1,
        description="part of the patches of each image, drawn at random, that the kept ones are of; 1: all",
    )
    subsampling: Literal["greedy", "random", "proxies"] = fit_field(
        "greedy", description="which: a coreset, a random choice, or as many learned proxies in their place"
    )
    projection: int | None = fit_field(128, ge=1, description="dimensions in which the coreset is selected; null: all")
    anchors: Literal["clean", "official"] = fit_field("clean", description="how the selection starts")
    parts: int = fit_field(
        1,
        ge=1,
        le=100_000,
        description="parts of the patches that a coreset is selected in, and then among the selections; 1: at once",
    )
    turns: Literal[1, 4, 8] = fit_field(
        1, description="directions that nominal images are learnt in, each by features of its own; 1: as they are"
    )
    roi_fit: bool = fit_field(False, description="no patch outside the region of interest enters the bank")

    exclude_same_image: bool = match_field(False, description="patches do not meet rows of their own image")
    kept_neighbours: int | None = match_field(
        None, ge=2, description="neighbours kept for other ways of scoring; null: as many as this one may read"
    )

    search: Literal["exact", "ivfpq"] = match_field("exact", description="exact, or among product codes (ivfpq.py)")
    lists: int | None = match_field(
        None, ge=1, description="groups of rows (ivfpq); null: about the root of their number, at most 4096"
    )
    subquantisers: int = match_field(64, ge=1, description="parts of a row that are coded (ivfpq)")
    bits: int = match_field(8, ge=1, le=16, description="of each code (ivfpq)")
    probes: int = match_field(16, ge=1, description="lists that a patch is sought in (ivfpq)")

    sigma: float = score_field(4.0, ge=0, le=1000, description="Gaussian smoothing of maps in pixels; 0: none")

    @model_validator(mode="after")
    def _no_idle_options(self) -> Self:
        unread = {
            "pooling 'concat' keeps every channel": (self.pooling == "concat", {"pre_dimensions", "dimensions"}),
            "coreset_ratio 1 selects nothing": (
                self.coreset_ratio == 1,
                {"subsampling", "anchors", "preselect", "parts"},
            ),
            "only the greedy subsampling reads it": (self.subsampling != "greedy", {"projection", "anchors", "parts"}),
            "only search 'ivfpq' reads it": (self.search == "exact", {"lists", "subquantisers", "bits", "probes"}),
        }
        for reason, (idle, keys) in unread.items():
            if idle and keys & self.model_fields_set:
                named = ", ".join(sorted(keys & self.model_fields_set))
                raise ValueError(f"{named}: {reason}; remove the key")
        if self.coreset_ratio != 1 and self.preselect < self.coreset_ratio:
            raise ValueError(
                f"preselect: {self.preselect:g} of the patches are fewer than coreset_ratio keeps of all "
                f"({self.coreset_ratio:g}): raise it, or lower coreset_ratio"
            )
        if self.turns != 1 and self.roi_fit:
            raise ValueError("turns: what roi_fit would leave out of turned images is not known; choose one of them")
        if self.search == "ivfpq" and (fault := faiss_fault()):
            raise ValueError(f"search: ivfpq: {fault}; or choose exact")
        if self._always_counts:
            self._check_kept(self._always_counts)
        return self

    @abstractmethod
    def n_neighbours(self, images: int) -> int:
        """How many neighbours a score reads, with a bank of so many images."""

    def stage_config(self, stage: Stage) -> dict[str, Any]:
        """As `Method.stage_config`; banks and searches do not depend on the method that has them."""
        own = super().stage_config(stage)
        if self.preselect == 1:  # as in banks made before there was a choice
            own.pop("preselect", None)
        shared = {"fit": BANK_VERSION, "match": MATCH_VERSION}
        if stage == "match":
            own |= {"ivfpq_version": IVFPQ_VERSION} if self.search == "ivfpq" else self._unread_by_exact_search()
        if stage == "score" and self.folds:
            own["folds"] = self.folds
        if stage == "match" and self.kept_neighbours is None and self._always_counts:
            own["kept_neighbours"] = self._always_counts + 1  # null stands for a number that follows the images
        return {**own, "method": "memory_bank", "version": shared[stage]} if stage in shared else own

    def _unread_by_exact_search(self) -> dict[str, int]:
        """What its address has of product codes: where nothing is written, what once was their default."""
        plain = type(self).model_fields["probes"].default
        return {"lists": self.lists or 512, "probes": 1 if self.probes == plain else self.probes}

    @property
    def turned_by(self) -> tuple[int, ...]:
        """All directions but the first."""
        return tuple(360 * turn // self.turns for turn in range(1, self.turns))

    def depth(self, state: MemoryBank) -> int:
        """How many neighbours are sought: what a score reads and one to skip, or more by `kept_neighbours`.

        Raises:
            ValueError: fewer are kept than a score reads.
        """
        count = self.n_neighbours(len(state.image_ids))
        self._check_kept(count)
        return self.kept_neighbours or count + 1

    @property
    def _always_counts(self) -> int | None:
        """How many neighbours a score reads, where that does not follow the number of images."""
        fewest, most = self.n_neighbours(1), self.n_neighbours(1_000_000)
        return fewest if fewest == most else None

    def _check_kept(self, count: int) -> None:
        if self.kept_neighbours is not None and self.kept_neighbours <= count:
            raise ValueError(
                f"kept_neighbours: {self.kept_neighbours}, and a score may read {count} and one to skip; "
                f"keep {count + 1}"
            )

    def embed(self, taps: list[Tensor], device: str) -> Tensor:
        """Patch features (B, rows * columns, D) float32 on a device.

        Raises:
            ValueError: the taps do not suit the parameters, or hold NaN or infinity.
        """
        patches = embed(
            [tap.to(device) for tap in taps],
            patch_size=self.patch_size,
            stride=self.stride,
            pre_dimensions=self.pre_dimensions,
            dimensions=self.dimensions,
            pooling=self.pooling,
        )
        check_finite(patches)
        return patches

    def fit(self, features: Features, runtime: Runtime) -> MemoryBank:
        """Build the memory bank.

        Raises:
            ValueError: no image, or features that differ in shape or hold NaN.
            BudgetError: the selection does not fit the memory budget, or the disk what that does not hold.
        """
        import torch

        patches, places, grid = self._patches(features, runtime)
        per_image = self.turns * len(self._learnt(features, grid))
        count = min(self._size(len(features) * per_image), len(patches))
        kept = select(patches, count, self._selection(), runtime)
        source = torch.where(kept.picks < 0, -1, kept.picks // places.shape[1])
        place = places.flatten()[kept.picks.clamp(min=0)]
        return MemoryBank(kept.rows, source, place, list(features.image_ids), list(grid), kept.covering_radius)

    @property
    def updatable(self) -> bool:
        """Proxies are learned from all patches at once."""
        return self.subsampling != "proxies"

    @property
    def leaves_out(self) -> bool:
        """What a proxy took from which image is not known."""
        return self.subsampling != "proxies"

    def without(self, state: MemoryBank, image_ids: Collection[str], train: Features, runtime: Runtime) -> MemoryBank:
        """The bank without the rows of some images."""
        del train
        return state.without(image_ids, runtime)

    @property
    def join_fault(self) -> str:
        """Banks are joined as they are."""
        return ""

    def join(self, states: Sequence[MemoryBank]) -> MemoryBank:
        """The rows of all banks, each with its image and place.

        Raises:
            ValueError: as `join_fault` says; or no banks, or ones of other grids or dimensions.
        """
        if self.join_fault:
            raise ValueError(self.join_fault)
        return MemoryBank.joined(states)

    @property
    def folds(self) -> int | None:
        """Product codes are learned from all rows: they fit the patches of an image too well whose rows are skipped."""
        return IVFPQ_FOLDS if self.search == "ivfpq" else None

    def update(self, state: MemoryBank, new: Features, runtime: Runtime) -> MemoryBank:
        """The bank with patches of new images.

        A bank of all patches equals one from scratch. A coreset keeps its rows, and its selection goes on among the new
        patches until the bank is as large as one from scratch; other rows than those would be chosen of all.

        Raises:
            ValueError: as `fit`.
        """
        import torch

        patches, places, grid = self._patches(new, runtime)
        if list(grid) != state.grid or patches.shape[1] != state.rows.shape[1]:
            raise ValueError(
                f"the new images have a grid of {grid} patches of {patches.shape[1]} values, the bank {state.grid} of "
                f"{state.rows.shape[1]}: extract all features with one extractor"
            )
        ids = sorted([*state.image_ids, *new.image_ids])
        number = {image_id: position for position, image_id in enumerate(ids)}
        per_image = self.turns * len(self._learnt(new, grid))
        count = min(self._size(len(ids) * per_image) - len(state.rows), len(patches))
        picks, added = torch.arange(0), state.rows[:0]
        if count > 0:
            kept = select(patches, count, self._selection(), runtime, known=state.rows)
            picks, added = kept.picks, kept.rows
        before = torch.tensor([number[image_id] for image_id in state.image_ids])[state.source]
        after = torch.tensor([number[image_id] for image_id in new.image_ids])[picks // places.shape[1]]
        source, place = torch.cat([before, after]), torch.cat([state.place, places.flatten()[picks]])
        every_patch = self.coreset_ratio == 1
        numbers = source * self.turns * grid[0] * grid[1] + place
        order = numbers.argsort() if every_patch else torch.arange(len(source))
        rows = runtime.merged("the rows of the bank", [state.rows, added], order)
        source, place = source[order], place[order]
        if every_patch:
            return MemoryBank(rows, source, place, ids, list(grid), 0.0)
        radius = max(state.covering_radius, radius_around(patches, rows, runtime))
        return MemoryBank(rows, source, place, ids, list(grid), radius, state.appended + len(picks))

    def needs(self, taps: list[Tensor], images: int) -> Needs:
        """Patches are read again where they are not held; proxies are learned from rows of anywhere."""
        patches, values = self._shape(taps)
        directions = images * self.turns
        rows = directions * self._drawn(patches)
        size = rows if self.coreset_ratio == 1 else min(self._size(directions * patches), rows)
        every, bank = {"the patches": 4 * values * rows}, {"the rows of the bank": 4 * values * size}
        stored = (4 * values + 16) * size
        codes = self._codes_needs(size, values)
        if self.coreset_ratio == 1:
            depth = self.kept_neighbours or self.n_neighbours(images) + 1
            matched = pairs_needs(rows, min(depth, rows)) if "train" in self.matched else {}
            return Needs(codes, held={**every, **matched}, stored=stored)
        if self.subsampling != "greedy":
            proxies = self.subsampling == "proxies"
            held = {**bank, **(every if proxies else {})}
            return Needs(codes, held=held, kept={} if proxies else every, stored=stored)
        at_once, held = selection_needs(self._selection(), rows, size, values)
        return Needs({**at_once, **codes}, {**held, **bank}, every, stored)

    def operations(self, taps: list[Tensor], images: int) -> Operations:
        """Products of patches with the rows that are picked, in the dimensions of the selection, and with the bank."""
        if self.search != "exact":
            raise NotImplementedError("to learn product codes takes minutes of a core, nine times a category")
        patches, values = self._shape(taps)
        directions = images * self.turns
        rows = directions * self._drawn(patches)
        size = rows if self.coreset_ratio == 1 else min(self._size(directions * patches), rows)
        picked = 0 if self.coreset_ratio == 1 or self.subsampling == "random" else size
        # In parts, eight times a part's share are picked of each, and the bank of these.
        products = rows * picked if self.parts == 1 else 8 * picked * (rows / self.parts + picked)
        selection = PICK_OPERATIONS * products * min(self.projection or values, values)
        scored = float(patches * size * values)
        matched = images * scored / 2 if "train" in self.matched else 0  # by symmetry
        return Operations(
            VALUE_OPERATIONS * rows * values + selection + matched, VALUE_OPERATIONS * patches * values + scored
        )

    def _codes_needs(self, rows: int, values: int) -> dict[str, int]:
        """Bytes of the product codes of so many rows while they are made."""
        if self.search == "exact":
            return {}
        from ad_assets.kernels.nearest.ivfpq_build import CodeShape

        shape = CodeShape.of(rows, values, self.lists, self.subquantisers, self.bits)
        return {"the product codes": shape.peak_bytes}

    def _shape(self, taps: list[Tensor]) -> tuple[int, int]:
        """Patches of an image, and values of each."""
        rows, columns = patch_grid(taps, self.patch_size, self.stride)
        return rows * columns, self.dimensions if self.pooling == "authors" else sum(tap.shape[1] for tap in taps)

    @property
    def is_random(self) -> bool:
        """Whether rows are selected from all patches, or searched by product codes, which are learnt."""
        return self.coreset_ratio < 1 or self.preselect < 1 or self.search != "exact"

    def _selection(self) -> Selection:
        way = "all" if self.coreset_ratio == 1 else self.subsampling
        return Selection(way, self.projection, self.anchors, self.parts, self.seed)

    def _size(self, patches: int) -> int:
        return max(1, int(self.coreset_ratio * patches))

    def _drawn(self, patches: int) -> int:
        """How many of so many patches of an image the bank is selected from."""
        return max(1, int(self.preselect * patches))

    def _learnt(self, features: Features, grid: tuple[int, int]) -> Tensor:
        """(P,) which places of the grid the bank may hold patches of."""
        return learnt_places(features.region if self.roi_fit else None, grid)

    def _patches(self, features: Features, runtime: Runtime) -> tuple[PatchRows, Tensor, tuple[int, int]]:
        """The rows that the bank may hold, (N, n) which patches of each image they are, and the grid."""
        import torch

        sample = features.sample()
        grid, shape = patch_grid(sample, self.patch_size, self.stride), self._shape(sample)
        learnt = self._learnt(features, grid)
        drawn = self._drawn(len(learnt))
        if len(features.turned) != len(self.turned_by):
            raise ValueError(f"turns: {self.turns} needs features of nominal images turned by {self.turned_by} degrees")
        directions = []
        for turn in range(self.turns):
            names = [f"{image_id} {turn}" if turn else image_id for image_id in features.image_ids]
            own = [learnt[drawn_places(name, len(learnt), drawn, self.seed)] for name in names]
            directions.append(torch.stack(own) + turn * grid[0] * grid[1])
        places = torch.cat(directions, dim=1)
        return PatchRows(features, self.embed, shape, places, runtime), places, grid

    def match(
        self, state: MemoryBank, images: Features, runtime: Runtime, *, left_out: bool = False
    ) -> Iterator[tuple[tuple[str, ...], Matches]]:
        """Yield the nearest rows of all patches (see `search`).

        All images of a whole bank at once are compared with one another by symmetry, at half the cost.

        Raises:
            ValueError: features of another dimension than the bank's.
        """
        state = state.to(runtime.device)
        every_patch = self.coreset_ratio == 1 and not self.roi_fit and self.turns == 1
        whole = every_patch and set(state.image_ids) <= set(images.image_ids)
        by_symmetry = whole and self.search == "exact" and not (left_out or self.exclude_same_image)
        matched = match_bank_with_itself(state, self.depth(state), runtime) if by_symmetry else {}
        done = 0
        for ids in images.id_batches():
            parts = {image_id: with_narrow_rows(matched[image_id]) for image_id in ids if image_id in matched}
            others = [image_id for image_id in ids if image_id not in matched]
            if others:
                batch = Batch(images.load(others, images.layers), (0, 0), others, left_out)
                parts |= by_image(others, self._search(state, batch, runtime))
            yield ids, together(ids, parts)
            done += len(ids)
            runtime.report("images matched with the bank", done, len(images))

    def growth(self, state: MemoryBank, earlier: MemoryBank, runtime: Runtime) -> BankGrowth | None:
        """As `Method.growth`; product codes are learned from all rows."""
        if self.search != "exact" or self.depth(state) != self.depth(earlier):
            return None
        grown = GrownRows.of(state, earlier, runtime)
        return BankGrowth(self.embed, state, earlier, grown) if grown else None

    def _search(self, state: MemoryBank, batch: Batch, runtime: Runtime) -> Matches:
        state = state.to(runtime.device)
        codes = self._codes(state, runtime) if self.search == "ivfpq" else None
        patches, excluded = self.embed(batch.taps, runtime.device), self.excluded_ids(batch)
        return match_patches(state, patches, excluded, self.depth(state), runtime, codes, self.probes)

    def _codes(self, state: MemoryBank, runtime: Runtime) -> QuantisedIndex:
        return codes_of(state.rows, self.lists, self.subquantisers, self.bits, self.seed, runtime.memory_gb)

    def search_quality(self, state: MemoryBank, nominal: Features, runtime: Runtime) -> dict[str, float]:
        """As `Method.search_quality`: of product codes."""
        if self.search == "exact":
            return {}
        bank = state.to(runtime.device)
        embed = partial(self.embed, device=runtime.device)
        return quality_of_codes(bank, nominal, embed, self._codes(bank, runtime), self.probes, self.seed, runtime)

    def neighbours_of(self, state: MemoryBank, batch: Batch, runtime: Runtime, skip: Skip) -> tuple[Tensor, Tensor]:
        """Distances and rows (B, P, n_neighbours) that a score reads, nearest first, on the device.

        With `left_out`, an image is compared with the bank without its own rows; no others are selected instead.

        Raises:
            ValueError: features of another dimension than the bank's, or fewer rows than a score reads.
        """
        count = self.n_neighbours(len(state.image_ids))
        self._check_kept(count)
        matches = batch.matches or self._search(state, batch, runtime)
        read = neighbours(state, matches, batch.image_ids, self.excluded_ids(batch), count, skip)
        return read[0].to(runtime.device), read[1].to(runtime.device)

    def surroundings(
        self, state: MemoryBank, batch: Batch, runtime: Runtime, places: Tensor, rows: Tensor, count: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield for one patch of each image its features, those of its nearest row, and the rows around that row.

        Args:
            state: the bank.
            batch: B images.
            runtime: device and memory budget.
            places: (B,) which patch of each image.
            rows: (B, P, n) as `neighbours_of` returns them.
            count: rows around, the nearest itself included; fewer in a bank of fewer.

        Yields:
            (D,), (D,) and (count, D) float32.
        """
        import torch

        bank, excluded = state.to(runtime.device), self.excluded_ids(batch)
        nearest = bank.rows[rows[torch.arange(len(rows), device=rows.device), places, 0]]
        if excluded is None:
            distances, around = nearest_rows(nearest, bank.blocks(), count, runtime)
        else:
            each = zip(nearest[:, None], excluded, strict=True)
            found = [nearest_rows(row, bank.blocks(own), count, runtime) for row, own in each]
            distances, around = (torch.cat(part) for part in zip(*found, strict=True))
        for image, place in enumerate(places.tolist()):
            patch = self.embed([tap[image, None] for tap in batch.taps], runtime.device)[0, place]
            yield patch, nearest[image], bank.rows[around[image, distances[image].isfinite()]]

    def inspected(self, batch: Batch) -> InspectedGrid:
        """The grid of patches with the region of interest."""
        return InspectedGrid(batch.region, patch_grid(batch.taps, self.patch_size, self.stride))

    def score_maps(self, batch: Batch, patch_scores: Tensor, image_scores: Tensor) -> ScoreMaps:
        """The grid of patch scores (B, P), filled as `inspected` does, resized and smoothed into maps, on the CPU."""
        from ad_assets.kernels.smoothing import gaussian_blur, upsample

        grid = patch_grid(batch.taps, self.patch_size, self.stride)
        maps = gaussian_blur(upsample(patch_scores.unflatten(1, grid), batch.map_size), self.sigma)
        return ScoreMaps(without_outside(maps, batch.region).cpu(), image_scores.cpu())

    @property
    def graph_fault(self) -> str:
        """Product codes are searched by a library of their own."""
        return "search: ivfpq searches product codes, which no graph of tensors holds" if self.search != "exact" else ""

    def describe(self, state: MemoryBank) -> dict[str, int | float | str]:
        """Size of the bank, and how well it covers the training patches."""
        patches = len(state.image_ids) * self.turns * state.grid[0] * state.grid[1]
        return {
            **super().describe(state),
            "rows": state.rows.shape[0],
            "dimensions": state.rows.shape[1],
            "covering_radius": state.covering_radius,
            "compression": patches / state.rows.shape[0],
            "appended_rows": state.appended,
        }
