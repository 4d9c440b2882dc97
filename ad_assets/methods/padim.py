"""PaDiM: Defard et al., a Patch Distribution Modeling Framework for Anomaly Detection and Localization, ICPR 2021.

Fit: at every place of the finest layer, the mean and covariance of the nominal feature vectors; deeper layers are
resized to it (nearest) and joined, and a random choice of channels is kept. Score: Mahalanobis distance, resized and
smoothed; the image score is the largest value of the map.

Means and covariances merge exactly (Chan, Golub and LeVeque, 1983), so new images cost what they bring. Without one of
its own images, a Gaussian is known in closed form (Sherman and Morrison, 1950): with q = v' A^-1 v, v = x - mean,
A = (n-1)/(n-2) covariance + ridge, the squared distance is (n/(n-1))^2 q / (1 - n / ((n-1)(n-2)) q).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from ad_assets.methods.base import Method, fit_field, register, score_field
from ad_assets.methods.data import Batch, Features, Frame, LoadMatches, ScoreMaps, check_finite
from ad_assets.methods.needs import Needs
from ad_assets.methods.operations import Operations
from ad_assets.methods.region_of_interest import InspectedGrid, without_outside
from ad_assets.methods.runtime import Runtime
from ad_assets.methods.state import State

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.scoring_graph import ScoringGraph

FACTOR_IMAGES = 0.7  # for each channel: a covariance is factored in the time that so many images are added
COVARIANCES = "the covariances"
TASK_PLACES = 64  # of one task of a thread
CACHED_PLACES = 16  # that are factored in one task: their matrices stay in the cache, which halves the time


@dataclass(frozen=True)
class Gaussians(State):
    """A normal distribution at every place.

    Args:
        mean: (H, W, D) float32.
        covariance: (H, W, D, D) float32, normalised by n - 1, without ridge.
        channels: (D,) int64, which channels of the joined layers are kept.
        image_ids: the n nominal images.
        whitening: none until completed; then the inverse Cholesky factors (H W, D, D) of covariance + ridge and, once
            an image was left out, of A.
    """

    mean: Tensor
    covariance: Tensor
    channels: Tensor
    image_ids: list[str]
    whitening: list[Tensor]

    def to(self, device: str) -> Self:
        """Mean and channels on a device. The matrices stay where they are: they may be more than a device holds."""
        return replace(self, mean=self.mean.to(device), channels=self.channels.to(device))


@register
class Padim(Method[Gaussians]):
    """Mahalanobis distance to the nominal vectors of the same place.

    >>> Padim(channels=550).stage_config("fit")["channels"]
    550
    """

    name: ClassVar[str] = "padim"
    version: ClassVar[int] = 1
    lengths: ClassVar[tuple[str, ...]] = ("sigma",)
    state_asset: ClassVar[Literal["template_set", "memory_bank", "trained_model"]] = "trained_model"
    state_type: ClassVar[type[State]] = Gaussians
    scores_fall: ClassVar[bool] = True

    channels: int | None = fit_field(100, ge=1, description="channels kept, drawn with the seed; null: all")

    ridge: float = score_field(0.01, gt=0, description="added to the diagonal of covariances")
    sigma: float = score_field(4.0, ge=0, le=1000, description="Gaussian smoothing of maps in pixels; 0: none")

    @property
    def is_random(self) -> bool:
        """Where channels are drawn."""
        return self.channels is not None

    @property
    def updatable(self) -> bool:
        """New images join the others."""
        return True

    @property
    def leaves_out(self) -> bool:
        """By taking the image out of the Gaussians."""
        return True

    def fit(self, features: Features, runtime: Runtime) -> Gaussians:
        """Means and covariances of all places.

        Raises:
            ValueError: fewer than two images, features that hold NaN, or more than the budget.
        """
        import torch

        if len(features) < 2:
            raise ValueError(f"a covariance needs at least two nominal images, there are {len(features)}")
        joined = sum(tap.shape[1] for tap in features.sample())
        channels = torch.arange(joined)
        if self.channels is not None and self.channels < joined:
            generator = torch.Generator().manual_seed(self.seed)
            channels = torch.randperm(joined, generator=generator)[: self.channels].sort().values
        mean, covariance = _moments(features, channels, runtime)
        return Gaussians(mean, covariance, channels, list(features.image_ids), [])

    def update(self, state: Gaussians, new: Features, runtime: Runtime) -> Gaussians:
        """The state on the union; equal to one from scratch but for rounding of the stored float32 (1e-7)."""
        mean, covariance = _moments(new, state.channels, runtime, state)
        ids = sorted([*state.image_ids, *new.image_ids])
        return Gaussians(mean, covariance, state.channels, ids, [])

    def prepare(
        self, state: Gaussians, train: Features, runtime: Runtime, load_matches: LoadMatches | None = None
    ) -> Gaussians:
        """Factor the covariances."""
        del train, load_matches
        return replace(state, whitening=[_kept(_whitening(state.covariance, 1.0, self.ridge, runtime), 1, runtime)])

    def without(self, state: Gaussians, image_ids: Collection[str], train: Features, runtime: Runtime) -> Gaussians:
        """The Gaussians of the other images: those of the smaller part are read, and taken out where they are to go.

        Raises:
            ValueError: fewer than two images are left.
        """
        going, staying = (
            replace(train, image_ids=tuple(i for i in state.image_ids if (i in image_ids) == goes))
            for goes in (True, False)
        )
        if len(staying) < 2:
            raise ValueError(f"without {len(going)} near-copies no covariance is left: fit two other images at least")
        if len(staying) <= len(going):
            mean, covariance = _moments(staying, state.channels, runtime)
        else:
            mean, covariance = _taken_out(state, *_moments(going, state.channels, runtime), len(going))
        return self.prepare(Gaussians(mean, covariance, state.channels, list(staying.image_ids), []), train, runtime)

    def needs(self, taps: list[Tensor], images: int) -> Needs:
        """A covariance and a factor of it at every place, whatever the number of images."""
        del images
        joined = sum(tap.shape[1] for tap in taps)
        size, places = min(self.channels or joined, joined), taps[0].shape[2] * taps[0].shape[3]
        matrices = 4 * places * size * size
        return Needs({COVARIANCES: matrices, "their factors": matrices}, stored=matrices + 4 * places * size + 8 * size)

    def operations(self, taps: list[Tensor], images: int) -> Operations:
        """A covariance at every place grows with images, its factor does not."""
        joined = sum(tap.shape[1] for tap in taps)
        size, places = min(self.channels or joined, joined), taps[0].shape[2] * taps[0].shape[3]
        squares = float(places * size * size)
        return Operations(squares * (images + FACTOR_IMAGES * size), squares)

    @property
    def graph_fault(self) -> str:
        """As `Method.graph_fault`."""
        return ""

    def graph_bytes(self, taps: Sequence[tuple[int, ...]]) -> int:
        """A mean and a factor at every place."""
        joined = sum(shape[0] for shape in taps)
        size = min(self.channels or joined, joined)
        return 4 * taps[0][1] * taps[0][2] * size * (size + 1)

    def graph(self, frame: Frame) -> ScoringGraph:
        """As `Method.graph`."""
        from ad_assets.methods.padim_graph import PadimGraph

        return PadimGraph(self, frame)

    def score(self, state: Gaussians, batch: Batch, runtime: Runtime) -> ScoreMaps:
        """Score a batch: Mahalanobis distances, on the CPU.

        Raises:
            ValueError: features of other shapes than the Gaussians', or fewer than three images to leave one out of.
        """
        import torch

        from ad_assets.kernels.smoothing import gaussian_blur, upsample

        vectors = _joined([tap.to(runtime.device) for tap in batch.taps], state.channels.to(runtime.device))
        if vectors.shape[1:] != state.mean.shape:
            raise ValueError(
                f"features give {tuple(vectors.shape[1:])} places and channels, the Gaussians have "
                f"{tuple(state.mean.shape)}: score with the extractor that they were fitted on"
            )
        away = (vectors - state.mean.to(runtime.device)).flatten(1, 2).permute(1, 2, 0)
        excluded, known = self.excluded_ids(batch), set(state.image_ids)
        own = [image_id in known for image_id in excluded or ()]
        if own and all(own):  # no other distance is read
            squares = self._without_itself(state, away, runtime)
        else:
            squares = _lengths(state.whitening[0], away, runtime)
        if any(own) and not all(own):
            among = torch.tensor(own, device=squares.device)
            squares = torch.where(among, self._without_itself(state, away, runtime), squares)
        places = state.mean.shape[:2]
        grid = InspectedGrid(batch.region, places).filled(squares.T).unflatten(1, places).sqrt()
        maps = without_outside(gaussian_blur(upsample(grid, batch.map_size), self.sigma), batch.region)
        return ScoreMaps(maps.cpu(), maps.amax(dim=(1, 2)).cpu())

    def _without_itself(self, state: Gaussians, away: Tensor, runtime: Runtime) -> Tensor:
        n = len(state.image_ids)
        if n < 3:
            raise ValueError(f"without one of {n} images no covariance is left: fit at least three images")
        if len(state.whitening) == 1:  # most scorers leave out no image
            factors = _whitening(state.covariance, (n - 1) / (n - 2), self.ridge, runtime)
            state.whitening.append(_kept(factors, 2, runtime))
        q = _lengths(state.whitening[1], away, runtime)
        # 1 - c q is positive but for rounding: A less its own part is still positive definite.
        remaining = (1 - q * (n / ((n - 1) * (n - 2)))).clamp(min=1e-6)
        return q / remaining * (n / (n - 1)) ** 2

    def describe(self, state: Gaussians) -> dict[str, int | float | str]:
        """Places and channels."""
        height, width, channels = state.mean.shape
        return {**super().describe(state), "places": height * width, "channels": channels}


def _kept(factors: Tensor, tensors: int, runtime: Runtime) -> Tensor:
    """Factors on the device, if so many tensors of their size take less than half the budget."""
    return (
        factors.to(runtime.device)
        if tensors * factors.nbytes <= runtime.budget_gb(runtime.device) * 1e9 / 2
        else factors
    )


def _lengths(factors: Tensor, vectors: Tensor, runtime: Runtime) -> Tensor:
    """(P, B): squared lengths of vectors (P, D, B), multiplied by factors (P, D, D), which may lie in main memory."""
    import torch

    from ad_assets.kernels.parallel import each, spans

    device, (size, images) = vectors.device, vectors.shape[1:]
    step = TASK_PLACES if device.type == "cpu" else _places_at_once(4 * size * (size + 2 * images), runtime)

    def measure(part: slice) -> Tensor:
        return torch.bmm(factors[part].to(device), vectors[part]).square().sum(dim=1)

    return torch.cat(list(each(measure, spans(len(vectors), step), device.type)))


def _joined(taps: list[Tensor], channels: Tensor) -> Tensor:
    """(B, H, W, D): layers on the grid of the first, joined, and the chosen channels.

    Raises:
        ValueError: fewer channels than those chosen, NaN or infinity.
    """
    import torch
    from torch.nn.functional import interpolate

    grid = taps[0].shape[2:]
    joined, numbers = sum(tap.shape[1] for tap in taps), channels.tolist()
    last = max(numbers)
    if last >= joined:
        raise ValueError(
            f"the layers have {joined} channels, number {last} was fitted: score with the extractor that the "
            "Gaussians are from"
        )
    layers, first = [], 0
    for tap in taps:
        own = [number - first for number in numbers if first <= number < first + tap.shape[1]]  # they ascend
        first += tap.shape[1]
        if own:
            part = tap if len(own) == tap.shape[1] else tap.index_select(1, torch.tensor(own, device=tap.device))
            layers.append(part if part.shape[2:] == grid else interpolate(part, grid, mode="nearest"))
    vectors = torch.cat(layers, dim=1).permute(0, 2, 3, 1)
    check_finite(vectors)
    return vectors


def _moments(
    features: Features, channels: Tensor, runtime: Runtime, known: Gaussians | None = None
) -> tuple[Tensor, Tensor]:
    """Mean (H, W, D) and covariance (H, W, D, D) float32 of all places, and of `known` images; float64 sums."""
    import torch

    from ad_assets.kernels.parallel import each, spans

    (sample,) = _joined(features.sample(), channels)
    height, width, size = sample.shape
    need = 4e-9 * height * width * size * size
    parts = f"{height} x {width} places, {size} x {size} float32"
    runtime.check_budget(
        COVARIANCES,
        need,
        parts,
        "keep fewer channels, or shrink the images more (resize): PaDiM holds one for each place",
    )
    mean = torch.empty(height, width, size)
    covariance = torch.empty(height, width, size, size)
    before = len(known.image_ids) if known else 0
    for rows in spans(height, _places_at_once(3 * 8 * width * size * size, runtime)):
        count = before
        centre = torch.zeros(width * (rows.stop - rows.start), size, dtype=torch.float64, device=runtime.device)
        scatter = torch.zeros(*centre.shape, size, dtype=torch.float64, device=runtime.device)
        if known:
            centre += known.mean[rows].flatten(0, 1).to(runtime.device)
            scatter += known.covariance[rows].flatten(0, 1).to(runtime.device)
            scatter *= before - 1
        for ids, taps in features.batches():
            vectors = _joined([tap.to(runtime.device) for tap in taps], channels.to(runtime.device))[:, rows]
            at_once = TASK_PLACES if centre.device.type == "cpu" else len(centre)
            places = (part.split(at_once) for part in (vectors.flatten(1, 2).transpose(0, 1), centre, scatter))
            tasks = [(*task, count) for task in zip(*places, strict=True)]
            list(each(lambda task: _take_in(*task), tasks, centre.device.type))
            count += len(ids)
            runtime.report(f"images seen at rows up to {rows.stop} of {height}", count - before, len(features))
        mean[rows] = centre.float().cpu().unflatten(0, (-1, width))
        covariance[rows] = (scatter / max(1, count - 1)).float().cpu().unflatten(0, (-1, width))
    return mean, covariance


def _take_in(vectors: Tensor, centre: Tensor, scatter: Tensor, count: int) -> None:
    """Let means (p, D) and sums of squares (p, D, D) of `count` images account for new vectors (p, b, D), in place."""
    new = vectors.double()
    own = new.mean(dim=1)
    new = new - own[:, None]
    shift, added, total = own - centre, new.shape[1], count + new.shape[1]
    scatter.baddbmm_(new.mT, new)
    scatter.baddbmm_(shift[:, :, None], shift[:, None], alpha=count * added / total)
    centre += shift * (added / total)


def _taken_out(state: Gaussians, mean: Tensor, covariance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the images that are left when some of this mean and covariance go; row by row."""
    import torch

    n, means, covariances = len(state.image_ids), torch.empty_like(state.mean), torch.empty_like(state.covariance)
    left = n - count
    for row in range(len(mean)):
        own = mean[row].double()
        rest = (n * state.mean[row].double().to(own) - count * own) / left
        apart = rest - own
        scatter = (n - 1) * state.covariance[row].double().to(own) - (count - 1) * covariance[row].double()
        scatter.baddbmm_(apart[:, :, None], apart[:, None], alpha=-left * count / n)
        means[row], covariances[row] = rest, scatter / (left - 1)
    return means, covariances


def _whitening(covariance: Tensor, scale: float, ridge: float, runtime: Runtime) -> Tensor:
    """(H W, D, D) float32: inverse Cholesky factors of scale * covariance + ridge."""
    import torch

    from ad_assets.kernels.parallel import each, spans, threads

    flat = covariance.flatten(0, 1)
    size = flat.shape[1]
    result = torch.empty_like(flat)
    identity = torch.eye(size, dtype=torch.float64, device=runtime.device)

    def invert(part: slice) -> None:
        matrices = flat[part].to(runtime.device).double().mul_(scale)
        matrices.diagonal(dim1=1, dim2=2).add_(ridge)
        factors = torch.linalg.cholesky(matrices)
        result[part] = torch.linalg.solve_triangular(factors, identity.expand_as(factors), upper=False).float().cpu()

    device, step = identity.device.type, _places_at_once(4 * 8 * size * size, runtime)
    if device == "cpu":
        step = min(CACHED_PLACES, max(1, step // threads()))
    list(each(invert, spans(len(flat), step), device))
    return result


def _places_at_once(bytes_each: int, runtime: Runtime) -> int:
    return max(1, int(runtime.budget_gb(runtime.device) * 1e9 / 2) // bytes_each)
