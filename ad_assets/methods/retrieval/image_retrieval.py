"""What detectors share that compare an image with the nominal images most like it.

Every nominal image is described by one vector, by which it is retrieved, and holds vectors of places, which those of
the image are compared with. The latter are not stored again: the features are in the store, and `prepare` reads them.
So adding images costs their features and nothing else.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from ad_assets.methods.base import Method, score_field
from ad_assets.methods.data import Batch, Features, LoadMatches
from ad_assets.methods.needs import Needs
from ad_assets.methods.operations import Operations
from ad_assets.methods.region_of_interest import inspected_cells, learnt_places
from ad_assets.methods.runtime import Runtime
from ad_assets.methods.state import State

if TYPE_CHECKING:
    from torch import Tensor


VECTORS = "the vectors of all images"
SCORE_IMAGES = 16  # as many nominal images more would take as long as what is done for an image beside comparing


@dataclass(frozen=True)
class Pyramids(State):
    """Nominal images.

    Args:
        pooled: (N, C) float32, what each is retrieved by.
        image_ids: the N images, sorted.
        vectors: none until completed; then one tensor (N, P, D) float32 a level.
    """

    pooled: Tensor
    image_ids: list[str]
    vectors: list[Tensor]

    def to(self, device: str) -> Self:
        """Pooled vectors on a device. The others stay where `prepare` put them: a device may not hold them."""
        return replace(self, pooled=self.pooled.to(device))


class ImageRetrieval(Method[Pyramids]):
    """Nominal images, the most similar of which an image is compared with."""

    lengths: ClassVar[tuple[str, ...]] = ("sigma",)
    state_asset: ClassVar[Literal["template_set", "memory_bank", "trained_model"]] = "memory_bank"
    state_type: ClassVar[type[State]] = Pyramids

    neighbours: int = score_field(50, ge=1, description="nominal images that an image is compared with")
    exclude_same_image: bool = score_field(True, description="an image that was trained on is not compared with itself")
    roi_fit: bool = score_field(False, description="no vector outside the region of interest is compared with")
    sigma: float = score_field(4.0, ge=0, le=1000, description="Gaussian smoothing of maps in pixels; 0: none")

    @abstractmethod
    def pooled(self, taps: list[Tensor], region: Tensor | None = None) -> Tensor:
        """(B, C): what images are retrieved by, of their inspected cells.

        Raises:
            ValueError: NaN or infinity.
        """

    @abstractmethod
    def vectors(self, taps: list[Tensor]) -> list[Tensor]:
        """(B, P, D) of each level: what places are compared by."""

    @abstractmethod
    def grids(self, taps: list[Tensor]) -> list[tuple[int, int]]:
        """Rows and columns of the P places of each level."""

    def room(self, images: int, places: int, size: int, runtime: Runtime, beside: int) -> Tensor:
        """(N, P, D) for the vectors of a level, in the order in memory that scoring reads them in.

        Args:
            images: N.
            places: P.
            size: D.
            runtime: memory budget, beyond which they lie in a temporary file.
            beside: bytes of the other levels.
        """
        return runtime.empty(VECTORS, images, places, size, beside=beside)

    def kept(self, region: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """(n,) int64, ascending: the places of a level whose vectors are read."""
        return learnt_places(region if self.roi_fit else None, grid)

    @property
    def updatable(self) -> bool:
        """New images join the others."""
        return True

    @property
    def is_random(self) -> bool:
        """The features themselves are the bank."""
        return False

    @property
    def leaves_out(self) -> bool:
        """An image is no neighbour of its own."""
        return True

    def fit(self, features: Features, runtime: Runtime) -> Pyramids:
        """Describe the nominal images.

        Raises:
            ValueError: no image, or features that hold NaN.
        """
        import torch

        self.check_layers(len(features.sample()))
        pooled = []
        for _, taps in features.batches():
            pooled.append(self.pooled(taps))
            runtime.report("images described", sum(map(len, pooled)), len(features))
        return Pyramids(torch.cat(pooled), list(features.image_ids), [])

    def update(self, state: Pyramids, new: Features, runtime: Runtime) -> Pyramids:
        """The state on the union, in the canonical order of image ids; equal to one from scratch."""
        return _together([state, self.fit(new, runtime)])

    @property
    def join_fault(self) -> str:
        """Images are joined as they are."""
        return ""

    def join(self, states: Sequence[Pyramids]) -> Pyramids:
        """The images of all, by id; what several have learnt is one.

        Raises:
            ValueError: no states, or ones that describe images by other numbers of values.
        """
        sizes = {state.pooled.shape[1] for state in states}
        if len(sizes) != 1:
            raise ValueError(
                f"images described by {sorted(sizes)} values cannot be joined: one extractor describes those of all "
                "categories"
            )
        return _together(states)

    def needs(self, taps: list[Tensor], images: int) -> Needs:
        """Scoring reads the vectors of all."""
        vectors = 4 * sum(level.numel() for level in self.vectors(taps))
        return Needs(held={VECTORS: images * vectors}, stored=4 * images * taps[-1].shape[1])

    def operations(self, taps: list[Tensor], images: int) -> Operations:
        """An image is compared with those most like it."""
        size = sum(tap.numel() for tap in taps)
        return Operations(images * size, (SCORE_IMAGES + min(self.neighbours, images)) * size)

    def prepare(
        self, state: Pyramids, train: Features, runtime: Runtime, load_matches: LoadMatches | None = None
    ) -> Pyramids:
        """Read the vectors of all nominal images from the stored features; onto the device, if they fit its budget.

        With a region of interest, images are described anew by what is inspected of them.

        Raises:
            BudgetError: they are beyond the budget, and the disk has no room for them.
        """
        import torch

        del load_matches
        # Those of the state: of a joint lane it has images of other categories too.
        train = replace(train, image_ids=tuple(state.image_ids))
        taps = train.sample()
        sample = self.vectors(taps)
        kept = [self.kept(train.region, grid) for grid in self.grids(taps)]
        shapes = [(len(train), len(places), level.shape[2]) for places, level in zip(kept, sample, strict=True)]
        total = 4 * sum(map(math.prod, shapes))
        vectors = [self.room(*shape, runtime, total - 4 * math.prod(shape)) for shape in shapes]
        pooled = state.pooled if train.region is None else torch.empty_like(state.pooled)
        done = 0
        for ids, taps in train.batches():
            some = slice(done, done + len(ids))
            for level, places, own in zip(
                vectors, kept, self.vectors([tap.to(runtime.device) for tap in taps]), strict=True
            ):
                level[some] = own.cpu() if len(places) == own.shape[1] else own.cpu()[:, places]
            if train.region is not None:
                pooled[some] = self.pooled(taps, train.region)
            done += len(ids)
        fits = sum(level.nbytes for level in vectors) <= runtime.budget_gb(runtime.device) * 1e9
        on_device = [level.to(runtime.device) for level in vectors] if fits else vectors
        return replace(state, pooled=pooled, vectors=on_device)

    def without(self, state: Pyramids, image_ids: Collection[str], train: Features, runtime: Runtime) -> Pyramids:
        """The other images. The vectors stay where they are: those of images infinitely far away are never read."""
        import torch

        del train, runtime
        away = torch.tensor([image_id in image_ids for image_id in state.image_ids], device=state.pooled.device)
        if away.all():
            raise ValueError("there is no other nominal image to compare near-copies with: fit others too")
        return replace(state, pooled=state.pooled.masked_fill(away[:, None], torch.inf))

    def retrieved(self, state: Pyramids, pooled: Tensor, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each image the distances to the nominal images most like it, nearest first, and their numbers.

        Args:
            state: the nominal images.
            pooled: (B, C) of the images.
            batch: the images; with `left_out`, none is compared with itself.

        Raises:
            ValueError: there is no image to compare one with.
        """
        import torch

        from ad_assets.kernels.nearest.bounds import exact_distances

        excluded = self.excluded_ids(batch)
        own = {image_id: number for number, image_id in enumerate(state.image_ids)}
        for number, row in enumerate(exact_distances(pooled, state.pooled.to(pooled.device))):
            itself = own.get(excluded[number]) if excluded is not None else None
            if itself is not None:
                row = row.clone()
                row[itself] = torch.inf
            count = min(self.neighbours, int(row.isfinite().sum()))
            if not count:
                raise ValueError(f"there is no nominal image but {state.image_ids[0]} itself: fit at least two images")
            yield row.topk(count, largest=False)

    def describe(self, state: Pyramids) -> dict[str, int | float | str]:
        """How many images are kept."""
        return {**super().describe(state), "images": len(state.image_ids)}


def _together(states: Sequence[Pyramids]) -> Pyramids:
    """The images of all states, in the canonical order of image ids, each once."""
    import torch

    pooled = torch.cat([state.pooled for state in states])
    ids = [image_id for state in states for image_id in state.image_ids]
    places = {image_id: place for place, image_id in enumerate(ids)}
    return Pyramids(pooled[[places[image_id] for image_id in sorted(places)]], sorted(places), [])


def mean_vector(tap: Tensor, region: Tensor | None) -> Tensor:
    """(B, C): the mean of a tap (B, C, h, w) over its inspected cells."""
    if region is None:
        return tap.mean(dim=(2, 3))
    cells = inspected_cells(region, tap.shape[2:])
    return tap[:, :, cells.to(tap.device)].mean(dim=2)
