"""Studies: what becomes of a detector when some of its settings vary, measured on the features of the lanes.

One asset a study and category. A variant keeps its rows in the store under the fingerprint of all it reads, so a study
that gains a variant, or was killed, measures only what is missing. No variant is ever chosen: all rows are shown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from ad_assets.config.benchmark import Dataset, Study, Variant, fingerprint
from ad_assets.datasets.base import Reader
from ad_assets.graph.stage import GPU, Parts, Stage, StageError, StageSettings, Upstream, Work
from ad_assets.graph.stages.features import extractor_of, read_features
from ad_assets.graph.stages.fitted_state import StoreCheckpoints, holds_out_groups, read_state, runtime_of, state_stage
from ad_assets.graph.stages.ground_truth import GroundTruth, MeasuredScores, quality
from ad_assets.graph.stages.image_index import declared_groups, group_parts
from ad_assets.graph.stages.kept_pictures import keep_picture
from ad_assets.graph.stages.neighbours import neighbours_stage, read_matches, seconds_each
from ad_assets.graph.stages.region_of_interest import (
    learns_inside,
    read_region,
    region_digest,
    region_parts,
    region_tensor,
)
from ad_assets.graph.stages.scorer import Scorer
from ad_assets.graph.stages.training_subsets import TrainingSubset, contaminated_subset, random_subset
from ad_assets.graph.stages.turned_features import Turned, all_turned_by, turned_by, turned_parts, with_turned
from ad_assets.methods import LoadMatches, Method, State
from ad_assets.methods.base import Stage as MethodStage
from ad_assets.methods.runtime import Checkpoints
from ad_assets.report.markdown import escaped, fenced
from ad_assets.report.studies import plot, summarise, text_table
from ad_assets.store.layout import MARKER
from ad_assets.store.store import Artifact
from ad_assets_runtime.geometry import Mask

VERSION = 3
ROWS = "study_rows"  # the kind of artifact that holds the rows of one variant
TABLE, VARIANT = "rows.parquet", "rows.json"
_SPLITS = ("train", "test")
_STAGES: tuple[MethodStage, ...] = ("fit", "match", "score")

Row = dict[str, Any]


@dataclass(frozen=True)
class VariantSettings:
    """One variant of a study with all that it reads of the benchmark file.

    Args:
        variant: which settings differ, and the detector that results.
        most_contaminated: the largest contamination of all variants.
        map_size: height and width of its score maps.
        map_step: as `Scorer` has it.
    """

    variant: Variant
    most_contaminated: float
    map_size: tuple[int, int]
    map_step: int = 1

    def address(self) -> dict[str, Any]:
        """Its part of the address of the study: that of all categories."""
        stages: dict[str, Any] = {stage: self.variant.detector.stage_configs(stage) for stage in _STAGES}
        return {
            **{name: shared for name, (shared, _) in stages.items()},
            "categories": {name: own for name, (_, own) in stages.items()},
            **self._drawn(),
            **self._maps(),
        }

    def address_of(self, category: str) -> dict[str, Any]:
        """Its part of the address of the rows of one category."""
        method = self.variant.detector.method_for(category)
        stages: dict[str, Any] = {stage: method.stage_config(stage) for stage in _STAGES}
        return {**stages, **self._drawn(), **self._maps()}

    def _maps(self) -> dict[str, Any]:
        return {"map_size": self.map_size, **({"map_step": self.map_step} if self.map_step != 1 else {})}

    def _drawn(self) -> dict[str, Any]:
        drawn = {"contamination": self.variant.contamination, "most_contaminated": self.most_contaminated}
        contaminated = self.variant.contamination is not None
        return {"train_images": self.variant.train_images, **(drawn if contaminated else {})}


@dataclass(frozen=True)
class StudySettings(StageSettings):
    """What varies, and how often each variant is measured."""

    draws: int
    variants: tuple[VariantSettings, ...]

    def address(self) -> dict[str, Any]:
        """As `StageSettings.address`."""
        variants = {each.variant.name: each.address() for each in self.variants}
        # What its page shows after ± was another deviation once; the rows of its variants are the same.
        return {**super().address(), "variants": variants, **({"spread": "sample"} if self.draws > 1 else {})}


def study_stage(
    dataset: Dataset,
    study: Study,
    index: Stage,
    features: Mapping[str, Stage],
    turned: Mapping[str, Turned],
    bases: Sequence[Mapping[str, Stage]],
) -> Stage:
    """The asset ``<dataset>/studies/<study>``.

    Args:
        dataset: the dataset.
        study: what varies.
        index: the image index, for the truth.
        features: extractor name -> its features stage.
        turned: extractor name -> features of nominal images turned.
        bases: the stages of each varied detector by role; many a variant uses its state and its neighbours again.
    """
    used = list(dict.fromkeys(variant.detector.extractor for variant in study.variants))
    lanes = {variant.name: _Lane.of(dataset, variant, features, turned) for variant in study.variants}
    directions = {
        (variant.detector.extractor, turn): turned[variant.detector.extractor][turn]
        for variant in study.variants
        for turn in all_turned_by(variant.detector)
    }
    turns = {
        variant.name: {
            category: turned_by(variant.detector, category) for category in ("", *variant.detector.categories)
        }
        for variant in study.variants
    }
    settings = StudySettings(
        VERSION,
        study.draws,
        tuple(
            VariantSettings(variant, study.most_contaminated, extractor.map_size, extractor.map_step)
            for variant in study.variants
            for extractor in [extractor_of(lanes[variant.name].features)]
        ),
    )
    reader, sealed = dataset.reader, dataset.sealed
    holding = {
        each.name: any(
            holds_out_groups(dataset, each.detector, method)
            for method in (each.detector.method, *each.detector.categories.values())
        )
        for each in study.variants
    }
    grouped = (index,) if any(holding.values()) else ()

    def parts(upstream: Upstream) -> Parts:
        read = {f"{name}/{split}": upstream.of(features[name]).parts[split] for name in used for split in _SPLITS}
        read |= {
            f"{name}/turned_{turn}": upstream.of(stage).parts["train"] for (name, turn), stage in directions.items()
        }
        truth = upstream.of(index).parts["truth"]
        return {**read, "truth": truth, **region_parts(upstream, (index,)), **group_parts(upstream, grouped)}

    def build(work: Work) -> dict[str, Any]:
        settings: StudySettings = work.settings
        study = work.stage.key[-1]
        inspected = read_region(work.store, region_digest(work.upstream.of(index)))
        bench = _Measuring(work, reader, GroundTruth.of(work, index, sealed=sealed), inspected)
        rows: list[Row] = []
        runs = [(each, draw) for each in settings.variants for draw in range(settings.draws)]
        for done, (each, draw) in enumerate(runs):
            name, own = each.variant.detector.extractor, turns[each.variant.name]
            seed = draw if settings.draws > 1 else None
            read = {
                "version": settings.version,
                "settings": each.address_of(work.partition),
                "features": {split: work.upstream.of(features[name]).parts[split] for split in _SPLITS},
                "truth": work.upstream.of(index).parts["truth"],
                "seed": seed,
                **region_parts(work.upstream, (index,)),
                **(groups := group_parts(work.upstream, grouped if holding[each.variant.name] else ())),
                **turned_parts(work.upstream, turned[name], own.get(work.partition, own[""])),
            }
            address = fingerprint(read)
            stored = work.store.artifact(ROWS, address)
            if not work.force and stored.is_sound():
                measured = work.store.read_json(stored.at(VARIANT))
            else:
                checkpoints = StoreCheckpoints.of(work, stored)
                together = declared_groups(work.input(index)) if groups else []
                measured = bench.measure(each, lanes[each.variant.name], seed, checkpoints, together)
                work.store.write_json(stored.at(VARIANT), measured)
                checkpoints.clear()
                stored.commit({"study": work.stage.name, "metadata": {}})
            place = {"study": study, "category": work.partition, "variant": each.variant.name, "draw": draw}
            rows += [{**place, **row, "fingerprint": address} for row in measured]
            work.progress("variants measured", done + 1, len(runs))
        work.store.write_table(work.artifact.at(TABLE), pa.Table.from_pylist(rows))
        summary = summarise(rows)
        return {
            "variants": len(settings.variants),
            "draws": settings.draws,
            "table": {"md": fenced(text_table(summary, defects=True))},
            **keep_picture(work, "plot", escaped(study), plot(study, summary)),
        }

    return Stage(
        key=(dataset.name, "studies", study.name),
        kind="study",
        settings=settings,
        deps=(
            index,
            *(features[name] for name in used),
            *directions.values(),
            *(base[role] for base in bases for role in ("state", "neighbours") if role in base),
        ),
        address=parts,
        build=build,
        partitions=index.partitions,
        pool=GPU,
        group=f"{dataset.name}/studies",
        kinds=frozenset({"parquet"}),
        description=f"{', '.join(study.bases)} with other settings: {'; '.join(lanes)}. Nothing is chosen from it.",
    )


@dataclass(frozen=True)
class _Lane:
    """The stages that a variant would have as a lane; it shares their artifacts with lanes of the same settings."""

    features: Stage
    turned: Turned
    state: Stage
    neighbours: Stage | None

    @classmethod
    def of(
        cls, dataset: Dataset, variant: Variant, features: Mapping[str, Stage], turned: Mapping[str, Turned]
    ) -> _Lane:
        """The stages of one variant."""
        shared, directions = features[variant.detector.extractor], turned[variant.detector.extractor]
        state = state_stage(dataset, variant.detector, shared, directions)
        return cls(shared, directions, state, neighbours_stage(dataset, variant.detector, state, shared))


class _Measuring:
    """Measures variants of one category, and remembers the last fit: score settings vary more often."""

    def __init__(self, work: Work, reader: Reader, truth: GroundTruth, inspected: Mask | None) -> None:
        self._work, self._inspected = work, inspected
        self._truth = truth
        self._reader = reader
        self._last: tuple[str, State, float] | None = None

    def measure(
        self,
        settings: VariantSettings,
        lane: _Lane,
        seed: int | None,
        checkpoints: Checkpoints,
        groups: Sequence[frozenset[str]],
    ) -> list[Row]:
        """The rows of one variant; `seed` replaces the method's, and draws the training images."""
        import torch

        work, runtime, variant = self._work, runtime_of(self._work), settings.variant
        extractor = extractor_of(lane.features)
        method = variant.detector.method_for(work.partition)
        if seed is not None:
            method = method.model_copy(update={"seed": seed})
        train = read_features(work, lane.features, "train", method.layers)
        draw = self._draw(train.image_ids, settings, method.seed)
        region = region_tensor(self._inspected, extractor)
        inside = region if learns_inside(method) else None
        drawn = replace(train, image_ids=draw.train, region=inside, groups=groups)
        as_a_lane = draw.train == train.image_ids and seed is None
        key = fingerprint([method.stage_config("fit"), lane.features.key, drawn.image_ids, bool(groups)])
        if self._last is None or self._last[0] != key:
            started = time.perf_counter()
            stored = self._stored(lane.state, method) if as_a_lane else None
            fitted = stored or method.fit(
                with_turned(drawn, work, lane.turned, method),
                replace(runtime, checkpoints=checkpoints, precision=extractor.training_precision),
            )
            self._last = key, fitted, 0.0 if stored else time.perf_counter() - started
        _, fitted, fit_seconds = self._last
        matches, matching = self._matches(lane) if as_a_lane else (None, 0.0)
        size, step = settings.map_size, settings.map_step
        scorer = Scorer(method, fitted, drawn, matches, size, runtime, map_step=step, region=region)
        truth = GroundTruth(row for row in self._truth.rows if row["image_id"] not in draw.withheld)
        memory_gb = work.compute.memory_gb
        comparison = MeasuredScores(truth, self._reader, extractor, memory_gb, inspected=self._inspected)
        test = read_features(work, lane.features, "test", method.layers)
        tested = tuple(image_id for image_id in test.image_ids if image_id not in draw.withheld)
        seconds, images = 0.0, 0
        started = time.perf_counter()
        for ids, result in scorer(replace(test, image_ids=tested)):
            if runtime.device != "cpu":
                torch.cuda.synchronize(runtime.device)
            seconds, images = seconds + time.perf_counter() - started, images + len(ids)
            comparison.add(ids, result.maps, result.image_scores)
            started = time.perf_counter()
        rows = [_row(*found) for found in quality(truth, comparison)]
        if images:
            each = seconds / images + matching
            rows.append(_row("score_images_per_second", "", 1 / each, images))
            backbone = work.input(lane.features).facts()["images_per_second"]
            if backbone:
                rows.append(_row("images_per_second", "", 1 / (1 / backbone + each), images))
        if fit_seconds:
            rows.append(_row("fit_seconds", "", fit_seconds, len(drawn)))
        return rows

    def _draw(self, nominal: tuple[str, ...], settings: VariantSettings, seed: int) -> TrainingSubset:
        """The training images of a variant, and what it may not test."""
        variant = settings.variant
        try:
            if variant.contamination is not None:
                # The labels make the mixed set, as the world would; the detector sees its images alone.
                anomalous = sorted({row["image_id"] for row in self._truth.rows if row["label"]})
                return contaminated_subset(nominal, anomalous, variant.contamination, settings.most_contaminated, seed)
            return (
                TrainingSubset(nominal)
                if variant.train_images is None
                else random_subset(nominal, variant.train_images, seed)
            )
        except ValueError as error:
            raise StageError(f"{self._work.stage.name} [{self._work.partition}], {variant.name}: {error}") from error

    def _stored(self, state: Stage, method: Method[Any]) -> State | None:
        """What a lane with the same settings has learnt already."""
        artifact = self._work.store.artifact(state.kind, state.head_of(self._work.upstream).version)
        return read_state(artifact, method) if artifact.is_sound() else None

    def _matches(self, lane: _Lane) -> tuple[LoadMatches | None, float]:
        """What the images have found in a stored state, found now if no lane has; and the seconds an image took."""
        work, stage = self._work, lane.neighbours
        if stage is None or stage.build is None:
            return None, 0.0
        state = lane.state.head_of(work.upstream)
        if not work.store.artifact(lane.state.kind, state.version).is_sound():
            return None, 0.0
        upstream = Upstream({**work.upstream.heads, (lane.state.key, work.partition): state}, work.partition)
        artifact = work.store.artifact(stage.kind, stage.head_of(upstream).version)
        damaged = artifact.damaged(deep=True)
        if damaged is None or damaged:
            work.store.delete([artifact.at(MARKER), *(damaged or [])])
            metadata = stage.build(replace(work, stage=stage, upstream=upstream, artifact=artifact, force=False))
            artifact.commit({"study": work.stage.name, "metadata": metadata})
        return read_matches(artifact), seconds_each(artifact)


def _row(metric: str, defect: str, value: float | None, n: int) -> Row:
    return {"metric": metric, "defect_type": defect, "value": None if value is None else float(value), "n": n}


def read_study(work: Work, stage: Stage) -> list[Row]:
    """The rows of a study over all categories that are up to date."""
    rows: list[Row] = []
    for _, head in sorted(work.upstream.all(stage).items()):
        rows += read_rows(work.store.artifact(stage.kind, head.version))
    return rows


def read_rows(artifact: Artifact) -> list[Row]:
    """The rows of one category of a study."""
    rows: list[Row] = artifact.store.read_table(artifact.at(TABLE)).to_pylist()
    return rows
