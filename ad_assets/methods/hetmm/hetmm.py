"""HETMM: Chen et al., Hard Nominal Example-aware Template Mutual Matching for Industrial Anomaly Detection, 2023.

Fit: unit feature vectors of all nominal images are the template set (equation 2), of which pixel-level template
selection keeps `sheets` at every place (section 3.3; template_selection.py). Score: cosine distances within a window
from the image to the templates (equation 4) and back (equation 5), mixed by alpha (equation 6), resized and summed over
layers (equation 10); the image score is the largest value of the blurred map (equation 11).

Choices where the paper and its public implementation differ, or say nothing:

- windows, alpha and post-processing are the paper's, one set for all categories; the implementation's, one set a
  category, are the preset `repo_tuned_on_test` (hetmm_presets.py);
- few sheets are chosen by the largest smallest distance (`maxmin`) by default, the paper's largest sum in the presets:
  docs/results.md has figures of both;
- features should be taken ahead of a stage's last ReLU, as the implementation does (`pre_activation` of the extractor);
- maps are resized with align_corners, as the implementation does;
- the paper gives no kernel size for its blur: it ends at 4 sigma and mirrors the border;
- maps are not normalised to 0..1: the paper does not say over what, and over one image it would change pixel metrics.

A template set of all images is not stored again: the features are in the store, and `complete` reads them. So adding
images to it costs their features and nothing else. Selected sheets are stored whole, with the image each vector is
from; a new image may change the selection at any place, so it is made again from the stored features.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ad_assets.methods.base import Method, fit_field, register, score_field
from ad_assets.methods.base import Stage as MethodStage
from ad_assets.methods.data import Batch, Features, Frame, LoadMatches, Matches, ScoreMaps
from ad_assets.methods.growth import added_images
from ad_assets.methods.hetmm.growth import TemplateGrowth
from ad_assets.methods.hetmm.presets import PRESETS
from ad_assets.methods.hetmm.template_selection import GRAM, Selection, gram_bytes
from ad_assets.methods.hetmm.templates import (
    TEMPLATES,
    StoredTemplates,
    TemplateSet,
    absent_templates,
    bytes_each,
    images_of_all,
    nominal_vectors,
    own_templates,
    without_templates,
)
from ad_assets.methods.needs import Needs
from ad_assets.methods.operations import Operations
from ad_assets.methods.region_of_interest import InspectedGrid, inspected_cells, without_outside
from ad_assets.methods.runtime import Runtime
from ad_assets.methods.state import State

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.scoring_graph import ScoringGraph

Window = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
# As many templates, or images, more would take as long as what is done for an image beside comparing and selecting.
SCORE_TEMPLATES, SELECTED_IMAGES = 50, 200


@register
class Hetmm(Method[TemplateSet]):
    """Mutual template matching within windows.

    >>> Hetmm(sheets=60).stage_config("fit")["sheets"]
    60
    """

    name: ClassVar[str] = "hetmm"
    version: ClassVar[int] = 1
    lengths: ClassVar[tuple[str, ...]] = ("image_sigma", "image_blur_size", "image_pool", "map_sigma", "map_blur_size")
    state_asset: ClassVar[Literal["template_set", "memory_bank", "trained_model"]] = "template_set"
    state_type: ClassVar[type[State]] = TemplateSet
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    sheets: int | None = fit_field(None, ge=1, description="templates kept at every place; null: all images")
    selection: Selection = fit_field(
        "maxmin", description="how they are chosen; presets of the paper have its sum; see template_selection.py"
    )

    matching: Literal["window", "patch"] = score_field(
        "window", description="a place within a window (HETMM), or whole patches at one place"
    )
    windows: tuple[Window, ...] = score_field((9, 7, 5), description="a layer each: side of the window, in places")
    windows_backward: tuple[Window, ...] | None = score_field(
        None, description="the same from templates to the image; null: as windows"
    )
    alpha: Fraction | tuple[Fraction, ...] = score_field(
        0.8,
        description="share of the forward distance, one or a layer each; 1: forward only, 0: backward only; "
        "patches have one direction",
    )
    weights: tuple[Weight, ...] | None = score_field(None, description="a layer each: its weight; null: 1")
    align_corners: bool = score_field(True, description="how layers are resized to the image")
    image_score: Literal["max", "mean_of_max_pool"] = score_field("max", description="of the blurred map")
    image_sigma: float = score_field(6.8, ge=0, le=1000, description="Gaussian blur ahead of the image score; 0: none")
    image_blur_size: int | None = score_field(None, ge=1, description="side of that kernel; null: ends at 4 sigma")
    image_pool: int | None = score_field(None, ge=1, description="side of the pools of mean_of_max_pool")
    map_sigma: float = score_field(0.0, ge=0, le=1000, description="Gaussian blur of maps; 0: none")
    map_blur_size: int | None = score_field(None, ge=1, description="side of that kernel; null: ends at 4 sigma")
    border: Literal["reflect", "zero"] = score_field("reflect", description="what a blur finds outside the map")
    roi_fit: bool = score_field(False, description="no template outside the region of interest is matched (window)")
    screening: Literal["float32", "bfloat16"] = score_field(
        "float32", description="precision in which pairs are found; distances are float32 (local_matching.py)"
    )

    @model_validator(mode="after")
    def _no_idle_options(self) -> Self:
        if self.matching == "patch":
            idle = {"windows_backward", "screening", "roi_fit"} & self.model_fields_set
            if idle:
                raise ValueError(f"{', '.join(sorted(idle))}: matching 'patch' does not read it; remove the key")
            if any(window % 2 == 0 for window in self.windows):
                raise ValueError("windows: the side of a patch must be odd")
        if (self.image_pool is None) != (self.image_score == "max"):
            raise ValueError("image_pool: give it with image_score: mean_of_max_pool, and only there")
        for size in (self.image_blur_size, self.map_blur_size):
            if size is not None and size % 2 == 0:
                raise ValueError("image_blur_size, map_blur_size: the side of a kernel must be odd")
        return self

    def stage_config(self, stage: MethodStage) -> dict[str, Any]:
        """As `Method.stage_config`; sets of all images, from which nothing is selected, stay where they were."""
        own = super().stage_config(stage)
        return (
            {**own, "selection": "sum"} if stage == "fit" and (self.sheets, self.selection) == (None, "maxmin") else own
        )

    @property
    def is_random(self) -> bool:
        """Where sheets are drawn, or clustered from seeds that are."""
        return self.sheets is not None and ("random" in self.selection or "kmeans" in self.selection)

    @property
    def leaves_out(self) -> bool:
        """An image does not meet its own templates."""
        return True

    def check_layers(self, count: int) -> None:
        """Every layer has its window, and its alpha and weight where these are lists.

        Raises:
            ValueError: naming the parameter.
        """
        for name in ("windows", "windows_backward", "alpha", "weights"):
            values = getattr(self, name)
            if isinstance(values, tuple) and len(values) != count:
                raise ValueError(f"{name}: {len(values)} values for {count} layers; give one a layer")

    def fit(self, features: Features, runtime: Runtime) -> TemplateSet:
        """Select templates.

        Raises:
            ValueError: no image, features that differ in shape or hold NaN, or too many for the budget.
        """
        first = features.sample()
        self.check_layers(len(first))
        shapes = [list(tap.shape[1:]) for tap in first]
        ids = list(features.image_ids)
        if self.sheets is None or self.sheets >= len(features):
            return TemplateSet([], [], [], shapes, ids)
        kept = [self._select(features.layer(layer), shape, self.sheets, runtime) for layer, shape in enumerate(shapes)]
        return TemplateSet(
            [templates for templates, _, _ in kept],
            [sources for _, sources, _ in kept],
            [clusters for _, _, clusters in kept if clusters is not None],
            shapes,
            ids,
        )

    def _select(
        self, features: Features, shape: list[int], sheets: int, runtime: Runtime
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        import torch

        from ad_assets.methods.hetmm.template_selection import select_with_clusters

        if "random" not in self.selection:
            need, remedy = 1e-9 * gram_bytes(len(features)), "keep all images (sheets: null), or select pixel_random"
            runtime.check_budget(GRAM, need, f"{len(features)} images, float64", remedy)
        everything = nominal_vectors(features, shape, runtime)
        picks, clusters = select_with_clusters(
            everything.permute(2, 3, 0, 1),
            sheets,
            selection=self.selection,
            seed=self.seed,
            device=runtime.device,
            # Gram matrices go through both.
            memory_gb=min(runtime.memory_gb, runtime.budget_gb(runtime.device)),
            report=lambda done, total: runtime.report(f"places selected, {shape[0]} channels", done, total),
        )
        picks = picks.permute(1, 2, 0)
        templates = runtime.empty(TEMPLATES, *picks.shape, shape[0])
        for row, own, chosen in zip(templates, everything, picks, strict=True):
            torch.gather(own, 1, chosen[..., None].expand(-1, -1, shape[0]), out=row)
        return templates, picks.int(), clusters.to(torch.int16) if clusters is not None else None

    def needs(self, taps: list[Tensor], images: int) -> Needs:
        """Sheets are selected layer by layer; where all images are kept, scoring reads all layers."""
        shapes = [list(tap.shape[1:]) for tap in taps]
        if self.sheets is None or self.sheets >= images:
            return Needs(held={TEMPLATES: images * bytes_each(shapes)})
        largest = max(bytes_each([shape]) for shape in shapes)
        kept = self.sheets * bytes_each(shapes)
        sources = self.sheets * sum(4 * height * width for _, height, width in shapes)
        at_once = {} if "random" in self.selection else {GRAM: gram_bytes(images)}
        return Needs(at_once, {TEMPLATES: images * largest, "the sheets": kept}, stored=kept + sources)

    def operations(self, taps: list[Tensor], images: int) -> Operations:
        """A selection compares all images at each place; a score compares with all templates there."""
        sizes = sum(tap.numel() for tap in taps)
        if self.sheets is None or self.sheets >= images:
            return Operations(images * sizes, (SCORE_TEMPLATES + images) * sizes)
        return Operations(images * (SELECTED_IMAGES + images) * sizes, (SCORE_TEMPLATES + self.sheets) * sizes)

    def in_small(self, images: int) -> Self:
        """Fewer sheets than images are selected."""
        if self.sheets is None:
            return self
        return self.model_copy(update={"sheets": min(self.sheets, max(1, images // 2))})

    def prepare(
        self, state: TemplateSet, train: Features, runtime: Runtime, load_matches: LoadMatches | None = None
    ) -> TemplateSet:
        """Let the templates of a set of all images be read from the stored features, when they are first asked for.

        Raises:
            BudgetError: a device has no room for them.
        """
        del load_matches
        if state.templates:
            return state
        need, remedy = 1e-9 * len(train) * bytes_each(state.shapes), "keep fewer sheets, or tap deeper layers"
        runtime.check_device(TEMPLATES, need, f"of {len(train)} images", remedy)
        return replace(state, templates=StoredTemplates(train, state.shapes, runtime))

    def without(self, state: TemplateSet, image_ids: Collection[str], train: Features, runtime: Runtime) -> TemplateSet:
        """The set without the templates of some images; where a place has no other, as for `score`."""
        del train, runtime
        return without_templates(state, image_ids)

    @property
    def graph_fault(self) -> str:
        """As `Method.graph_fault`."""
        if self.screening != "float32":
            return f"screening: {self.screening} finds pairs in less than float32, and a graph computes in float32"
        return ""

    def graph(self, frame: Frame) -> ScoringGraph:
        """As `Method.graph`."""
        from ad_assets.methods.hetmm.scoring_graph import HetmmGraph

        return HetmmGraph(self, frame)

    def score(self, state: TemplateSet, batch: Batch, runtime: Runtime) -> ScoreMaps:
        """Score a batch: sums over layers of cosine distances, on the CPU.

        With `left_out`, an image meets the templates of other images; none are selected in place of its own. Where all
        sheets of a place are its own, its vectors count as orthogonal to that place.

        Raises:
            ValueError: features of other shapes than the templates', or NaN.
        """
        self._check_taps(state, batch.taps)
        maps = self._distances(state, batch, runtime)
        return ScoreMaps(
            without_outside(self._map(maps), batch.region).cpu(), self._image_scores(maps, batch.region).cpu()
        )

    def _check_taps(self, state: TemplateSet, taps: list[Tensor]) -> None:
        self.check_layers(len(taps))
        shapes = [list(tap.shape[1:]) for tap in taps]
        if shapes != state.shapes:
            raise ValueError(
                f"features are {shapes}, templates {state.shapes}: score with the extractor that the templates are from"
            )

    def match(
        self, state: TemplateSet, images: Features, runtime: Runtime, *, left_out: bool = False
    ) -> Iterator[tuple[tuple[str, ...], Matches]]:
        """Yield the distances of each layer in both directions (B, H, W), or of whole patches."""
        for ids, taps in images.batches():
            self._check_taps(state, taps)
            yield ids, self.search(state, Batch(taps, (0, 0), ids, left_out, region=images.region), runtime)

    def growth(self, state: TemplateSet, earlier: TemplateSet, runtime: Runtime) -> TemplateGrowth | None:
        """As `Method.growth`; sheets are selected anew, and each of them may be another."""
        sources, added = images_of_all(state), added_images(earlier.image_ids, state.image_ids)
        if sources is None or images_of_all(earlier) is None or added is None or state.shapes != earlier.shapes:
            return None
        return TemplateGrowth(self, state, sources, added, runtime)

    def search(self, state: TemplateSet, batch: Batch, runtime: Runtime) -> Matches:
        """What a batch finds in the templates: distances of each layer (B, H, W), on the CPU."""
        from ad_assets.kernels.local_matching import match
        from ad_assets.kernels.patch_matching import match_patches
        from ad_assets.kernels.unit_vectors import unit_vectors

        excluded, budget = self.excluded_ids(batch), runtime.budget_gb(runtime.device)
        found: dict[str, Tensor] = {}
        for layer, tap in enumerate(batch.taps):
            # Backwards, too, a template is sought in what is inspected of an image alone.
            inspected = InspectedGrid(batch.region, tap.shape[2:]).filled_tap(tap)
            query = unit_vectors(inspected.to(runtime.device))
            templates = state.templates[layer].to(runtime.device).permute(2, 3, 0, 1)
            own = self._excluded(state, layer, excluded, templates, batch)
            window = self.windows[layer]
            if self.matching == "patch":
                found[f"patch{layer}"] = match_patches(query, templates, window, memory_gb=budget, excluded=own)
                continue
            found[f"forward{layer}"], found[f"backward{layer}"] = match(
                query,
                templates,
                window,
                self.windows_backward[layer] if self.windows_backward else window,
                memory_gb=budget,
                screening=self.screening,
                excluded=own,
            )
        return found

    def _distances(self, state: TemplateSet, batch: Batch, runtime: Runtime) -> Tensor:
        """(B, *map_size): the sum over layers of resized distances (equations 6 and 10)."""
        from ad_assets.kernels.smoothing import upsample

        first = batch.taps[0]
        matches = batch.matches or self.search(state, batch, runtime)
        total: Tensor = first.new_zeros(len(first), *batch.map_size, device=runtime.device)
        for layer, tap in enumerate(batch.taps):
            if self.matching == "patch":
                distances = matches[f"patch{layer}"].to(total.device)
            else:
                alpha = self.alpha[layer] if isinstance(self.alpha, tuple) else self.alpha
                forward, backward = (matches[f"{way}{layer}"].to(total.device) for way in ("forward", "backward"))
                distances = alpha * forward + (1 - alpha) * backward
            inspected = InspectedGrid(batch.region, tap.shape[2:])
            distances = inspected.filled(distances.flatten(1)).unflatten(1, tap.shape[2:])
            weight = self.weights[layer] if self.weights else 1.0
            total += weight * upsample(distances, batch.map_size, align_corners=self.align_corners)
        return total

    def _excluded(
        self, state: TemplateSet, layer: int, own: Sequence[str] | None, templates: Tensor, batch: Batch
    ) -> Tensor | None:
        """(B, T, H, W) bool, which templates (T, C, H, W) the images do not meet; None: they meet all."""
        excluded = None if own is None else own_templates(state, layer, own).to(templates.device)
        absent = absent_templates(state, layer)
        if absent is not None:
            everywhere = absent.to(templates.device).expand(len(batch.taps[layer]), -1, -1, -1)
            excluded = everywhere if excluded is None else everywhere | excluded
        if not self.roi_fit or batch.region is None:
            return excluded
        outside = ~inspected_cells(batch.region, templates.shape[2:]).to(templates.device)
        everywhere = outside.expand(len(batch.taps[layer]), len(templates), -1, -1)
        return everywhere if excluded is None else everywhere | excluded

    def _map(self, maps: Tensor) -> Tensor:
        from ad_assets.kernels.smoothing import gaussian_blur

        return gaussian_blur(maps, self.map_sigma, size=self.map_blur_size, border=self.border)

    def _image_scores(self, maps: Tensor, region: Tensor | None) -> Tensor:
        """(B,): equation 11, or the mean of a max-pooled map, of the pools that hold an inspected pixel."""
        from torch.nn.functional import max_pool2d

        from ad_assets.kernels.smoothing import gaussian_blur

        blurred = gaussian_blur(maps, self.image_sigma, size=self.image_blur_size, border=self.border)
        blurred = without_outside(blurred, region)
        if self.image_pool is None:
            return blurred.amax(dim=(1, 2))
        side = min(self.image_pool, *maps.shape[1:])
        pools = max_pool2d(blurred[:, None], side)
        if region is None:
            return pools.mean(dim=(1, 2, 3))
        # Pixels beyond the last whole pool are in none; where all that is inspected lies there, the pools say nothing.
        counted = max_pool2d(region[None, None].to(maps), side)[0, 0] > 0
        return pools[:, 0, counted].mean(dim=1) if counted.any() else blurred.amax(dim=(1, 2))

    def maps(self, state: TemplateSet) -> dict[str, Tensor]:
        """Regions of easy nominal vectors at every place of every layer."""
        return {
            f"clusters, {'x'.join(map(str, shape))}": clusters.float()
            for shape, clusters in zip(state.shapes, state.clusters, strict=False)
        }

    def describe(self, state: TemplateSet) -> dict[str, int | float | str]:
        """Size of the set, and what the selection found."""
        images = len(state.image_ids)
        sheets = state.sources[0].shape[2] if state.sources else images
        return {
            "bytes": 4 * sheets * sum(channels * height * width for channels, height, width in state.shapes),
            "sheets": sheets,
            "compression": images / sheets,
            **{
                f"clusters_mean_{'x'.join(map(str, shape))}": float(clusters.float().mean())
                for shape, clusters in zip(state.shapes, state.clusters, strict=False)
            },
        }
