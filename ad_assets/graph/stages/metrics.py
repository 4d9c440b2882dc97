"""Exact metrics of one detector on one category, as tidy rows, with curves and a contact sheet.

Protocols: ``standard`` needs no threshold; ``interval_95`` holds both ends of an interval that covers;
``per_image_fpr`` is AUPRO with each image's own false positive rate, as Roth et al. seem to have it;
``nominal_threshold`` decides at a threshold from nominal training images alone, ``outlier_threshold`` at one from all
scores where no image is known to be nominal; ``oracle_f1`` and ``oracle_threshold`` choose theirs on the test images
and say so, as ``oracle_best_epoch`` does an epoch; ``timing`` is speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Dataset, Detector, Evaluation
from ad_assets.datasets.base import Reader
from ad_assets.graph.stage import Parts, Stage, StageSettings, Upstream, Work
from ad_assets.graph.stages.ground_truth import GroundTruth, MeasuredScores, read_pictures
from ad_assets.graph.stages.kept_pictures import keep_picture
from ad_assets.graph.stages.metric_rows import (
    MetricRows,
    add_image_rows,
    add_pixel_rows,
    add_registered_rows,
    add_timing_rows,
)
from ad_assets.graph.stages.oracle_epochs import read_best
from ad_assets.graph.stages.region_of_interest import in_frame, read_region, region_digest
from ad_assets.graph.stages.score_maps import read_score_index, shards
from ad_assets.methods.data import NominalScores
from ad_assets.methods.memory_bank.search_quality import DISTANCE, RECALL
from ad_assets.metrics.catalogue import registered_facts
from ad_assets.metrics.thresholds import promise
from ad_assets.report import panels, picture_files, pictures
from ad_assets.report.gallery import choose_gallery
from ad_assets.report.joint import JOINED_CATEGORIES, OWN_CATEGORY
from ad_assets.report.markdown import fenced
from ad_assets.report.threshold_section import LaneScores, threshold_text
from ad_assets.store.store import Artifact
from ad_assets_runtime.geometry import Mask

if TYPE_CHECKING:
    import numpy as np

VERSION = 3
ROWS, CURVES, IMAGES = "rows.json", "curves.json", "images.json"
DECISION = "decision"  # metadata: what the threshold promises
THRESHOLD = "threshold and recall"  # metadata: recall by type of defect, and what other rates would give
NO_TEST_IMAGES = "none, so that no metric that needs them was measured"
# Every n-th pixel of a map in both directions is enough for the ends of a colour scale.
COLOUR_STRIDE = 8


@dataclass(frozen=True)
class MetricsSettings(StageSettings):
    """How scores become metrics.

    Args:
        fpr_limits: limits of AUPRO.
        nominal_false_positive_rate: what the threshold from nominal images aims at.
        geometry: resize, crop and interpolation of the masks.
        resolution: where pixels are compared.
        seed: of the method, for the rows.
        blind: whether no image is known to be nominal.
        registered: what metrics of other packages say of themselves, by name.
    """

    fpr_limits: tuple[float, ...]
    nominal_false_positive_rate: float
    geometry: tuple[Any, ...]
    resolution: str
    seed: int | None
    blind: bool = False
    registered: Mapping[str, Any] = field(default_factory=dict)


def metrics_stage(
    dataset: Dataset,
    detector: Detector,
    index: Stage,
    score_maps: Stage,
    epochs: Stage | None,
    extractor: Extractor,
    evaluation: Evaluation,
) -> Stage:
    """The asset ``<dataset>/<detector>/metrics``."""
    settings = MetricsSettings(
        VERSION,
        evaluation.fpr_limits,
        dataset.false_alarm_rate(detector, "", evaluation),
        extractor.map_geometry,
        evaluation.resolution,
        detector.method.seed if detector.method else None,
        dataset.reader.blind,
        registered_facts(),
    )
    rates = {name: dataset.false_alarm_rate(detector, name, evaluation) for name in dataset.decided_apart(detector)}
    own = {
        name: replace(settings, nominal_false_positive_rate=rate)
        for name, rate in rates.items()
        if rate != settings.nominal_false_positive_rate
    }
    reader, sealed = dataset.reader, dataset.sealed

    def parts(upstream: Upstream) -> Parts:
        read = {"score_maps": upstream.of(score_maps).version, "truth": upstream.of(index).parts["truth"]}
        return {**read, **({"epochs": upstream.of(epochs).version} if epochs else {})}

    def build(work: Work) -> dict[str, Any]:
        import numpy as np

        settings: MetricsSettings = work.settings
        truth = GroundTruth.of(work, index, sealed=sealed)
        rows = MetricRows(settings.seed)
        nominal = read_score_index(work.input(score_maps)).nominal
        inspected = read_region(work.store, region_digest(work.upstream.of(index)))
        scores, colour_scale, curves = _read_scores(rows, work, score_maps, truth, reader, extractor, inspected)
        if truth.labelled and not any(truth.labels):
            # The scores of good images alone say nothing of how hot a defect is: what stands out is above all of them.
            colour_scale = pictures.nominal_scale(nominal.map_maxima) or colour_scale
        threshold = add_image_rows(rows, scores, truth, nominal, settings, curves)
        add_registered_rows(rows, "image", truth.has_both, len(scores), scores, np.array(truth.labels))
        if epochs:
            for row in read_best(work, epochs):
                rows.add("oracle_best_epoch", row["metric"], row["value"], row["n"])
        record = work.input(score_maps).facts()
        for name in (JOINED_CATEGORIES, OWN_CATEGORY, RECALL, DISTANCE):
            if name in record:
                rows.add("standard", name, record[name], len(truth.rows))
        add_timing_rows(rows, record)
        images = [
            # By content, not by name: an artifact serves every dataset that holds the same images.
            {"image_id": row["image_id"], "score": score, "label": row["label"]}
            for row, score in zip(truth.rows, scores.tolist(), strict=True)
        ]
        work.store.write_json(work.artifact.at(ROWS), rows.rows)
        work.store.write_json(work.artifact.at(CURVES), curves)
        work.store.write_json(work.artifact.at(IMAGES), asdict(ScoredImages(images, threshold, colour_scale)))
        decision = _decision(settings, truth, scores, threshold, nominal)
        if threshold is None or colour_scale is None or not truth.rows:
            return {**decision, **rows.headline(), "test_images": NO_TEST_IMAGES}
        sheet = _contact_sheet(work, score_maps, truth, scores, threshold, colour_scale, reader, extractor, inspected)
        shown = keep_picture(work, "contact_sheet", "false alarms, misses, hits", sheet)
        return {**decision, **rows.headline(), **shown}

    return Stage(
        key=(dataset.name, detector.name, "metrics"),
        kind="metrics",
        settings=settings,
        deps=(index, score_maps, *((epochs,) if epochs else ())),
        address=parts,
        build=build,
        partitions=index.partitions,
        group=f"{dataset.name}/{detector.lane}",
        kinds=frozenset({"python"}),
        own_settings=own,
        description="Tidy rows: image and pixel AUROC, AP, AUPRO, IoU, thresholds with their errors, images/s.",
    )


@dataclass(frozen=True)
class ScoredImages:
    """The test images with their scores.

    Args:
        images: ``image_id``, ``score`` and ``label`` of each; the label is None where it is unknown.
        threshold: an image is called anomalous above it; None without test images where no nominal one was scored.
        colour_scale: the scores that the ends of the colours of maps stand for; None as before.
    """

    images: list[dict[str, Any]]
    threshold: float | None
    colour_scale: tuple[float, float] | None


def rate_of(metrics: Stage, category: str) -> float:
    """The rate of false alarms that the threshold of a category aims at, from 0 to 1."""
    settings: Any = metrics.settings_for(category)
    rate: float = settings.nominal_false_positive_rate
    return rate


def read_rows(artifact: Artifact) -> list[dict[str, Any]]:
    """The tidy rows of a metrics artifact."""
    rows: list[dict[str, Any]] = artifact.store.read_json(artifact.at(ROWS))
    return rows


def read_curves(artifact: Artifact) -> dict[str, Any]:
    """The curves of a metrics artifact, by name; two lists of coordinates each."""
    curves: dict[str, Any] = artifact.store.read_json(artifact.at(CURVES))
    return curves


def read_scored_images(artifact: Artifact) -> ScoredImages:
    """The scores of a metrics artifact."""
    return ScoredImages(**artifact.store.read_json(artifact.at(IMAGES)))


def _read_scores(
    rows: MetricRows,
    work: Work,
    score_maps: Stage,
    truth: GroundTruth,
    reader: Reader,
    extractor: Extractor,
    inspected: Mask | None,
) -> tuple[np.ndarray, tuple[float, float] | None, dict[str, Any]]:
    """Stream the maps once: image scores in the order of `truth`, the colour scale, and the pixel metrics.

    There is no colour scale without test images.
    """
    import numpy as np

    original = work.settings.resolution == "original"
    memory_gb = work.compute.memory_gb
    comparison = MeasuredScores(truth, reader, extractor, memory_gb, original=original, inspected=inspected)
    sampled = _sampled(None if inspected is None else in_frame(inspected, extractor))
    sample: list[np.ndarray] = []
    for number, (image_ids, maps, image_scores) in enumerate(shards(work.input(score_maps))):
        comparison.add(image_ids, maps, image_scores)
        sample.append(sampled(maps.numpy()))
        work.progress("shards of maps evaluated", number + 1, -(-len(truth.positions) // len(image_ids)))
    low, high = np.quantile(np.concatenate(sample), [0.5, 0.999]) if sample else (0.0, 0.0)
    curves = add_pixel_rows(rows, comparison, work.settings.fpr_limits)
    add_registered_rows(rows, "pixel", comparison.has_both, comparison.pixels.pixels, comparison.pixels)
    colours = (float(low), float(max(high, np.nextafter(low, np.inf)))) if sample else None
    return comparison.scores, colours, curves


def _sampled(inspected: Mask | None) -> Callable[[np.ndarray], np.ndarray]:
    """Takes from maps (B, H, W) the scores that a colour scale comes from."""
    if inspected is None:
        return lambda maps: maps[:, ::COLOUR_STRIDE, ::COLOUR_STRIDE].ravel()
    return lambda maps: maps[:, inspected][:, ::COLOUR_STRIDE].ravel()


def _decision(
    settings: MetricsSettings,
    truth: GroundTruth,
    scores: np.ndarray,
    threshold: float | None,
    nominal: NominalScores,
) -> dict[str, Any]:
    """Metadata: what the threshold promises, what it finds, and what other rates of false alarms would give."""
    rate = settings.nominal_false_positive_rate
    told: dict[str, Any] = {}
    if not settings.blind:
        told[DECISION] = promise(len(nominal.scores), rate, nominal.groups, nominal.left_out)
    if threshold is not None:
        kinds, labels = ([row[name] for row in truth.rows] for name in ("defect_type", "label"))
        lane = LaneScores("", scores.tolist(), labels, kinds, threshold, rate, nominal.scores, nominal.groups)
        if text := threshold_text(lane):
            told[THRESHOLD] = {"md": fenced(text)}
    return told


def _contact_sheet(
    work: Work,
    score_maps: Stage,
    truth: GroundTruth,
    scores: np.ndarray,
    threshold: float,
    colour_scale: tuple[float, float],
    reader: Reader,
    extractor: Extractor,
    inspected: Mask | None,
) -> bytes:
    """The worst errors and some hits as one JPEG, for the UI."""
    chosen = choose_gallery(scores, truth.labels, threshold, misses=3, false_alarms=3, hits=4) if truth.labelled else []
    rows = [truth.rows[position] for position in chosen] or truth.rows[:4]
    drawn = [
        panels.panel(
            panels.ScoredPicture(picture.rgb, picture.score_map, colour_scale, picture.mask),
            score=picture.score,
            label=picture.row["label"] or 0,
            title=picture.row["defect_type"],
            size=96,
        )
        for picture in read_pictures(reader, extractor, work.input(score_maps), rows, inspected)
    ]
    return picture_files.to_jpeg(panels.contact_sheet(drawn, 2))
