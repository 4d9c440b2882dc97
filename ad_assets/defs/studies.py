"""Studies: what becomes of a detector when some of its settings vary, measured on the features of the lanes.

One asset a study and category. A variant keeps its rows in the store under the fingerprint of all it reads, so a study
that gains a variant, or was killed, measures only what is missing. No variant is ever chosen: all rows are shown.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
import pyarrow as pa

from ad_assets.benchmark import Dataset, Study, Variant, fingerprint
from ad_assets.datasets.files import ImageFiles
from ad_assets.defs.features import read_features
from ad_assets.defs.models import read_state, runtime, state_stage
from ad_assets.defs.stages import Parts, Stage, Upstream, Work
from ad_assets.defs.truth import Comparison, Truth
from ad_assets.extractor import Extractor
from ad_assets.methods import Features, Method, State
from ad_assets.report.studies import plot_uri, summarise, text_table

VERSION = 2
ROWS = "study_rows"
FPR_LIMIT = 0.3
_SPLITS = ("train", "test")

Row = dict[str, Any]


def study_stage(
    dataset: Dataset,
    study: Study,
    index: Stage,
    features: Mapping[str, Stage],
    extractors: Mapping[str, Extractor],
) -> Stage:
    """The asset ``<dataset>/studies/<study>``.

    Args:
        dataset: the dataset.
        study: what varies.
        index: the image index, for the truth.
        features: extractor name -> its features stage.
        extractors: extractor name -> extractor.
    """
    used = list(dict.fromkeys(variant.detector.extractor for variant in study.variants))
    states = {
        variant.name: state_stage(dataset, variant.detector, features[variant.detector.extractor])
        for variant in study.variants
    }
    settings = {variant.name: _settings(variant, extractors) for variant in study.variants}

    def parts(upstream: Upstream) -> Parts:
        read = {f"{name}/{split}": upstream.of(features[name]).parts[split] for name in used for split in _SPLITS}
        return {**read, "truth": upstream.of(index).parts["truth"]}

    def build(work: Work) -> dict[str, Any]:
        bench = _Bench(work, dataset, Truth.of(work, index))
        rows: list[Row] = []
        runs = [(variant, draw) for variant in study.variants for draw in range(study.draws)]
        for done, (variant, draw) in enumerate(runs):
            name = variant.detector.extractor
            seed = draw if study.draws > 1 else None
            read = {
                "version": VERSION,
                "settings": _read(settings[variant.name], work.partition),
                "features": {split: work.upstream.of(features[name]).parts[split] for split in _SPLITS},
                "truth": work.upstream.of(index).parts["truth"],
                "seed": seed,
            }
            address = fingerprint(read)
            stored = work.store.artifact(ROWS, address)
            if stored.exists() and not work.force:
                measured = work.store.read_json(stored.at("rows.json"))
            else:
                measured = bench.measure(variant, features[name], states[variant.name], extractors[name], seed)
                work.store.write_json(stored.at("rows.json"), measured)
                stored.commit({"study": work.stage.name})
            place = {"study": study.name, "category": work.partition, "variant": variant.name, "draw": draw}
            rows += [{**place, **row, "fingerprint": address} for row in measured]
            work.progress("variants measured", done + 1, len(runs))
        work.store.write_table(work.artifact.at("rows.parquet"), pa.Table.from_pylist(rows))
        summary = summarise(rows)
        return {
            "variants": len(study.variants),
            "draws": study.draws,
            "table": {"md": f"```\n{text_table(summary, defects=True)}\n```"},
            "plot": {"md": f"![{study.name}]({plot_uri(study.name, summary)})"},
        }

    return Stage(
        key=(dataset.name, "studies", study.name),
        kind="study",
        config={"version": VERSION, "draws": study.draws, "variants": settings},
        deps=(index, *(features[name] for name in used)),
        address=parts,
        build=build,
        partitions=index.partitions,
        group=f"{dataset.name}/studies",
        kinds=frozenset({"parquet"}),
        description=f"{study.base} with other settings: {'; '.join(settings)}. Nothing is chosen from it.",
    )


def _settings(variant: Variant, extractors: Mapping[str, Extractor]) -> dict[str, Any]:
    """All that a variant reads of the benchmark file."""
    fit, fit_categories = variant.detector.stage_configs("fit")
    score, score_categories = variant.detector.stage_configs("score")
    return {
        "fit": fit,
        "score": score,
        "categories": {"fit": fit_categories, "score": score_categories},
        "train_images": variant.train_images,
        "map_size": extractors[variant.detector.extractor].input_size,
    }


def _read(settings: Mapping[str, Any], category: str) -> dict[str, Any]:
    """The part of a variant's settings that one category reads."""
    own = settings["categories"]
    stages = {stage: own[stage].get(category, settings[stage]) for stage in ("fit", "score")}
    return {**{key: value for key, value in settings.items() if key != "categories"}, **stages}


class _Bench:
    """Measures variants of one category, and remembers the last state: score settings vary more often than states."""

    def __init__(self, work: Work, dataset: Dataset, truth: Truth) -> None:
        self._work = work
        self._truth = truth
        self._files = ImageFiles(dataset.reader.root)
        self._last: tuple[str, State, float] | None = None

    def measure(
        self, variant: Variant, features: Stage, state: Stage, extractor: Extractor, seed: int | None
    ) -> list[Row]:
        """The rows of one variant; `seed` replaces the method's, and draws the training images."""
        import torch

        work = self._work
        method = variant.detector.method_for(work.partition)
        if seed is not None:
            method = method.model_copy(update={"seed": seed})
        train = read_features(work, features, "train", method.layers)
        drawn = self._drawn(train, variant, method.seed)
        tools = runtime(work)
        key = fingerprint([method.stage_config("fit"), features.key, drawn.image_ids])
        if self._last is None or self._last[0] != key:
            started = time.perf_counter()
            stored = None if drawn is not train or seed is not None else self._stored(state, method)
            learnt = stored or method.fit(drawn, tools)
            spent = 0.0 if stored else time.perf_counter() - started
            self._last = key, method.complete(learnt, drawn, tools).to(tools.device), spent
        _, learnt, fit_seconds = self._last
        comparison = Comparison(self._truth, self._files, extractor, work.compute.memory_gb)
        seconds, images = 0.0, 0
        for ids, taps in read_features(work, features, "test", method.layers).batches():
            started = time.perf_counter()
            result = method.score(learnt, taps, extractor.input_size, tools)
            if tools.device != "cpu":
                torch.cuda.synchronize()
            seconds, images = seconds + time.perf_counter() - started, images + len(ids)
            comparison.add(ids, result.maps, result.image_scores)
        rows = [_row(*found) for found in _quality(self._truth, comparison)]
        rows.append(_row("score_images_per_second", "", images / seconds, images))
        backbone = work.input(features).record()["metadata"]["images_per_second"]
        if backbone:
            rows.append(_row("images_per_second", "", 1 / (1 / backbone + seconds / images), images))
        if fit_seconds:
            rows.append(_row("fit_seconds", "", fit_seconds, len(drawn)))
        return rows

    def _drawn(self, train: Features, variant: Variant, seed: int) -> Features:
        """All nominal images, or as many as the variant asks for."""
        import numpy as np

        wanted = variant.train_images
        if wanted is None:
            return train
        if wanted > len(train):
            raise dg.Failure(
                f"{self._work.stage.name} [{self._work.partition}]: {variant.name} asks for {wanted} training images, "
                f"there are {len(train)}"
            )
        chosen = np.random.default_rng([seed, wanted]).choice(len(train), wanted, replace=False)
        return replace(train, image_ids=tuple(train.image_ids[i] for i in sorted(chosen)))

    def _stored(self, state: Stage, method: Method[Any]) -> State | None:
        """What a lane with the same settings has learnt already."""
        if state.address is None:
            return None
        head = state.make_head(self._work.partition, state.address(self._work.upstream))
        artifact = self._work.store.artifact(state.kind, head.version)
        return read_state(artifact, method) if artifact.exists() else None


def _quality(truth: Truth, comparison: Comparison) -> Iterator[tuple[str, str, float | None, int]]:
    """(metric, defect type or empty for all, value, n)."""
    from ad_assets.metrics import ranking

    labels, scores, statistics = truth.labels, comparison.scores, comparison.pixels
    both = 0 < sum(labels) < len(labels)
    yield "image_auroc", "", ranking.auroc(scores, labels) if both else None, len(labels)
    for defect in sorted({row["defect_type"] for row in truth.rows if row["label"]}) if both else ():
        kept = [i for i, row in enumerate(truth.rows) if not row["label"] or row["defect_type"] == defect]
        yield "image_auroc", defect, ranking.auroc(scores[kept], [labels[i] for i in kept]), len(kept)
    yield "pixel_auroc", "", statistics.pixel_auroc() if comparison.has_both else None, statistics.pixels
    yield f"aupro_{FPR_LIMIT:.2f}", "", statistics.aupro(FPR_LIMIT) if comparison.has_both else None, statistics.pixels


def _row(metric: str, defect: str, value: float | None, n: int) -> Row:
    return {"metric": metric, "defect_type": defect, "value": None if value is None else float(value), "n": n}


def read_study(work: Work, stage: Stage) -> list[Row]:
    """The rows of a study over all categories that are up to date."""
    rows: list[Row] = []
    for _, head in sorted(work.upstream.all(stage).items()):
        rows += work.store.read_table(work.store.artifact(stage.kind, head.version).at("rows.parquet")).to_pylist()
    return rows
