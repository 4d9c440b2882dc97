"""SuperADD: Roming et al., SuperADD: Training-free Class-agnostic Anomaly Segmentation, 2026 (arXiv 2605.14808).

A bank of tokens for each of several blocks of a vision transformer. A token scores the L2 distance to its nearest row
over the number of channels, averaged over the blocks; the grid is resized into a map. The defaults are those of the
public code (LukasRoom/SuperADD, `config.json`), the same for all categories.

What is of a lane there and of other parts of the graph here:

- backbone, blocks, resizing and tiles are the extractor's: there DINOv3 ViT-H+/16, blocks 7, 15, 23 and 31 without the
  final norm, sides times 0.625, tiles of 640 pixels that share 256 or more. Here tiles share what `overlap` says and
  the last of a row is moved inwards, there all are moved alike;
- the threshold is that of `decision`: nominal images scored without their own rows. There every eighth nominal image is
  kept out of the bank, and the threshold is 1.421 times the 95th percentile of their pixels;
- the binary map there is closed along lines, filled and eroded: no score depends on it, and it is not built;
- nominal images are not made brighter or darker (there by a factor of 0.8 to 1.2, one an image).

What differs from the public code in the method itself:

- the image scores its highest token, since the authors score pixels alone (anomalib takes the highest pixel, PR #3628);
- maps have the size of the frame, there a quarter of the image's;
- layers may have grids of their own, so that any backbone will do: scores are averaged on the grid of the first;
- where the thinning could keep no fewer rows there it does not end; here the smallest random numbers are kept;
- in blind settings, which it does not have there, an image is not compared with its own rows (`exclude_same_image`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from ad_assets.methods.base import Method, fit_field, match_field, register, score_field
from ad_assets.methods.data import Batch, Features, Frame, Matches, ScoreMaps, check_finite
from ad_assets.methods.memory_bank.growth import GrownRows, LayerGrowth
from ad_assets.methods.memory_bank.layer_banks import LayerBanks
from ad_assets.methods.memory_bank.patch_bank import VALUE_OPERATIONS
from ad_assets.methods.memory_bank.search import match_patches
from ad_assets.methods.needs import Needs
from ad_assets.methods.operations import Operations
from ad_assets.methods.region_of_interest import InspectedGrid, learnt_places, without_outside
from ad_assets.methods.runtime import Runtime
from ad_assets.methods.state import State

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.scoring_graph import ScoringGraph


@register
class SuperAdd(Method[LayerBanks]):
    """Distance to the nearest nominal token of each layer.

    >>> SuperAdd(max_rows=None).updatable
    True
    """

    name: ClassVar[str] = "superadd"
    version: ClassVar[int] = 1
    lengths: ClassVar[tuple[str, ...]] = ("sigma",)
    state_asset: ClassVar[Literal["template_set", "memory_bank", "trained_model"]] = "memory_bank"
    state_type: ClassVar[type[State]] = LayerBanks
    matched: ClassVar[tuple[Literal["train", "test"], ...]] = ("test",)

    max_rows: int | None = fit_field(
        100_000,
        ge=1,
        description="rows of a layer's bank at most: more tokens are thinned where they lie dense; null: all",
    )
    subsets: int = fit_field(100, ge=1, description="draws of tokens in which they are thinned")
    roi_fit: bool = fit_field(False, description="no token outside the region of interest enters the bank")

    exclude_same_image: bool = match_field(
        True, description="an image that was trained on is not compared with its own rows (blind settings)"
    )

    sigma: float = score_field(0.0, ge=0, le=1000, description="Gaussian smoothing of maps in pixels; 0: none")

    @model_validator(mode="after")
    def _reads_the_subsets(self) -> Self:
        if self.max_rows is None and "subsets" in self.model_fields_set:
            raise ValueError("subsets: max_rows null thins nothing; remove the key")
        return self

    @property
    def is_random(self) -> bool:
        """Where tokens are thinned."""
        return self.max_rows is not None

    @property
    def updatable(self) -> bool:
        """Where all tokens are kept: a thinning looks at all of them."""
        return self.max_rows is None

    @property
    def leaves_out(self) -> bool:
        """An image is not compared with its own rows."""
        return True

    def without(self, state: LayerBanks, image_ids: Collection[str], train: Features, runtime: Runtime) -> LayerBanks:
        """The banks without the rows of some images."""
        del train
        return state.without(image_ids, runtime)

    @property
    def join_fault(self) -> str:
        """Banks are joined as they are."""
        return ""

    def join(self, states: Sequence[LayerBanks]) -> LayerBanks:
        """The rows of all banks, each with its image and place."""
        return LayerBanks.joined(states)

    def fit(self, features: Features, runtime: Runtime) -> LayerBanks:
        """Build the banks.

        Raises:
            ValueError: no image, or features that differ in shape or hold NaN.
            BudgetError: tokens are beyond the budget, and the disk has no room for them.
        """
        import torch

        from ad_assets.kernels.thinning import density_thinning

        sample = features.sample()
        grids = [_grid(tap) for tap in sample]
        rows, source, place = [], [], []
        beside = 0
        for layer, grid in enumerate(grids):
            learnt = learnt_places(features.region if self.roi_fit else None, grid)
            tokens = self._tokens(features.layer(layer), sample[layer], learnt, runtime, beside)
            picks = density_thinning(
                tokens,
                min(self.max_rows or len(tokens), len(tokens)),
                subsets=self.subsets,
                generator=torch.Generator().manual_seed(self.seed),
                device=runtime.device,
                memory_gb=runtime.budget_gb(runtime.device),
                report=partial(runtime.report, f"draws of layer {layer + 1} thinned"),
            )
            rows.append(tokens if len(picks) == len(tokens) else tokens[picks])
            beside += rows[-1].nbytes
            source.append(picks // len(learnt))
            place.append(learnt[picks % len(learnt)])
        return LayerBanks(rows, source, place, list(features.image_ids), grids)

    def update(self, state: LayerBanks, new: Features, runtime: Runtime) -> LayerBanks:
        """The banks with all tokens of new images, equal to those from scratch.

        Raises:
            NotImplementedError: tokens are thinned.
            ValueError: as `fit`, or features of another extractor.
        """
        import torch

        if not self.updatable:
            return super().update(state, new, runtime)
        added = self.fit(new, runtime)
        if added.grids != state.grids or [len(r[0]) for r in added.rows] != [len(r[0]) for r in state.rows]:
            raise ValueError("the new images have other features than the banks: extract all with one extractor")
        ids = sorted([*state.image_ids, *added.image_ids])
        numbers = {image_id: number for number, image_id in enumerate(ids)}
        rows, sources, places = [], [], []
        for layer, grid in enumerate(state.grids):
            banks = [each.bank(layer) for each in (state, added)]
            source = torch.cat([torch.tensor([numbers[i] for i in bank.image_ids])[bank.source] for bank in banks])
            place = torch.cat([bank.place for bank in banks])
            order = (source * grid[0] * grid[1] + place).argsort()
            rows.append(runtime.merged("the banks", [bank.rows for bank in banks], order))
            sources.append(source[order])
            places.append(place[order])
        return LayerBanks(rows, sources, places, ids, state.grids)

    def needs(self, taps: list[Tensor], images: int) -> Needs:
        """All tokens of a layer are thinned at once; kept are those of all layers."""
        tokens = [images * tap[0].numel() // tap.shape[1] for tap in taps]
        rows = [min(self.max_rows or count, count) for count in tokens]
        layers = {
            f"the tokens of layer {layer + 1}": 4 * count * tap.shape[1]
            for layer, (count, tap) in enumerate(zip(tokens, taps, strict=True))
        }
        stored = sum(count * (4 * tap.shape[1] + 16) for count, tap in zip(rows, taps, strict=True))
        return Needs(held=layers, stored=stored)

    def operations(self, taps: list[Tensor], images: int) -> Operations:
        """Products of the tokens of an image with all that are kept."""
        if self.max_rows is not None:
            raise NotImplementedError("how long tokens are thinned (max_rows) was never worked out")
        size = sum(tap.numel() for tap in taps)
        products = images * sum(tap.numel() * tap[0, 0].numel() for tap in taps)
        return Operations(images * size, VALUE_OPERATIONS * size + products)

    def match(
        self, state: LayerBanks, images: Features, runtime: Runtime, *, left_out: bool = False
    ) -> Iterator[tuple[tuple[str, ...], Matches]]:
        """Yield the distances of all tokens to their nearest rows, (B, cells) of each layer.

        Raises:
            ValueError: features of other shapes than the banks', or NaN.
        """
        state, done = state.to(runtime.device), 0
        for ids, taps in images.batches():
            yield ids, self._search(state, Batch(taps, (0, 0), ids, left_out), runtime)
            done += len(ids)
            runtime.report("images matched with the banks", done, len(images))

    def growth(self, state: LayerBanks, earlier: LayerBanks, runtime: Runtime) -> LayerGrowth | None:
        """As `Method.growth`."""
        if len(state.rows) != len(earlier.rows):
            return None
        pairs = [(state.bank(layer), earlier.bank(layer)) for layer in range(len(state.rows))]
        grown = [own for one, other in pairs if (own := GrownRows.of(one, other, runtime))]
        added = set(state.image_ids) - set(earlier.image_ids)
        return LayerGrowth(added, grown) if len(grown) == len(pairs) else None

    @property
    def graph_fault(self) -> str:
        """As `Method.graph_fault`."""
        return ""

    def graph(self, frame: Frame) -> ScoringGraph:
        """As `Method.graph`."""
        from ad_assets.methods.memory_bank.scoring_graphs import SuperAddGraph

        return SuperAddGraph(self, frame)

    def score(self, state: LayerBanks, batch: Batch, runtime: Runtime) -> ScoreMaps:
        """L2 distances over the number of channels, averaged over layers, and the highest of an image's tokens."""
        import torch

        from ad_assets.kernels.smoothing import gaussian_blur, upsample

        matches = batch.matches or self._search(state.to(runtime.device), batch, runtime)
        first = _grid(batch.taps[0])
        grids = []
        for layer, tap in enumerate(batch.taps):
            distances = matches[f"layer{layer}"].to(runtime.device) / tap.shape[1]
            cells = InspectedGrid(batch.region, _grid(tap)).filled(distances).unflatten(1, _grid(tap))
            grids.append(cells if layer == 0 else upsample(cells, (first[0], first[1])))
        scores = InspectedGrid(batch.region, first).filled(torch.stack(grids).mean(dim=0).flatten(1))
        maps = gaussian_blur(upsample(scores.unflatten(1, first), batch.map_size), self.sigma)
        return ScoreMaps(without_outside(maps, batch.region).cpu(), scores.amax(dim=1).cpu())

    def describe(self, state: LayerBanks) -> dict[str, int | float | str]:
        """Sizes of the banks."""
        tokens = sum(len(state.image_ids) * rows * columns for rows, columns in state.grids)
        rows = sum(len(each) for each in state.rows)
        return {**super().describe(state), "rows": rows, "layers": len(state.rows), "compression": tokens / rows}

    def _search(self, state: LayerBanks, batch: Batch, runtime: Runtime) -> Matches:
        """Distances to the nearest rows of banks on the device, by layer, (B, cells) float32 on the CPU."""
        grids = [_grid(tap) for tap in batch.taps]
        if grids != state.grids:
            raise ValueError(
                f"taps have grids {grids}, the banks {state.grids}: score with the extractor they are from"
            )
        check_finite(*batch.taps)
        excluded = self.excluded_ids(batch)
        if excluded is not None and not set(excluded) & set(state.image_ids):
            excluded = None
        found = {}
        for layer, tap in enumerate(batch.taps):
            tokens = _cells(tap.to(runtime.device))
            matches = match_patches(state.bank(layer), tokens, excluded, 1, runtime)
            found[f"layer{layer}"] = matches["distances"][:, :, 0]
        return found

    def _tokens(self, features: Features, sample: Tensor, learnt: Tensor, runtime: Runtime, beside: int) -> Tensor:
        """(N * n, C) on the CPU: the tokens of one layer at some cells, in the order of images and cells."""
        tokens = runtime.empty("the tokens", len(features), len(learnt), sample.shape[1], beside=beside)
        done = 0
        for ids, (tap,) in features.batches():
            if tap.shape[1:] != sample.shape[1:]:
                raise ValueError(
                    f"image {ids[0]} has features of shape {tuple(tap.shape[1:])}, those before "
                    f"{tuple(sample.shape[1:])}: extract all features with one extractor"
                )
            check_finite(tap)
            tokens[done : done + len(ids)] = _cells(tap)[:, learnt]
            done += len(ids)
            runtime.report("images read", done, len(features))
        return tokens.flatten(0, 1)


def _grid(tap: Tensor) -> list[int]:
    return [tap.shape[2], tap.shape[3]]


def _cells(tap: Tensor) -> Tensor:
    """(B, cells, C) of a tap (B, C, h, w)."""
    return tap.flatten(2).transpose(1, 2).contiguous()
