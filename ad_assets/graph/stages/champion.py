"""The champion of a lane and category: a new state takes its place if it passes the gates of the benchmark file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Dataset, Detector, Production
from ad_assets.graph.stage import CheckReport, Parts, Stage, StageSettings, Upstream, Work
from ad_assets.graph.stages.champion_bundle import point_to_bundle
from ad_assets.graph.stages.champion_gates import CHECKS, Gates
from ad_assets.graph.stages.fitted_state import method_of
from ad_assets.graph.stages.judgement import agreement, families_of, read_judgement
from ad_assets.graph.stages.metrics import DECISION, read_rows, read_scored_images
from ad_assets.graph.stages.region_of_interest import PART
from ad_assets.metrics.catalogue import compared
from ad_assets.production.champion_history import (
    ChampionCandidate,
    History,
    read_history,
    settings_of,
    update_history,
)
from ad_assets.production.nominal_gates import rate_in_words
from ad_assets.production.store_identity import check_store
from ad_assets.store.store import Artifact

VERSION = 1
CANDIDATE = "candidate.json"


@dataclass(frozen=True)
class ChampionSettings(StageSettings):
    """The gates of a champion; see `Production`."""

    floors: dict[str, float]
    margin: float


def champion_stage(
    dataset: Dataset,
    detector: Detector,
    extractor: Extractor,
    state: Stage,
    score_maps: Stage,
    metrics: Stage,
    synthetic: Stage,
    bundle: Stage | None = None,
) -> Stage:
    """The asset ``<dataset>/<detector>/champion`` of a production dataset; by its gates, or by none.

    With a bundle, a state is promoted only together with it.
    """
    production = dataset.production or Production()
    lane, by_group = detector.name, dataset.leaves_out_groups(detector)
    read = (state, score_maps, metrics, synthetic, *((bundle,) if bundle else ()))

    def parts(upstream: Upstream) -> Parts:
        return {stage.kind: upstream.of(stage).version for stage in read}

    def candidate(work: Work) -> ChampionCandidate:
        rows = read_rows(work.input(metrics))
        numbers = {r["metric"]: r["value"] for r in rows if r["protocol"] == "standard" and r["value"] is not None}
        state_head, maps_head, metrics_head = (work.upstream.of(stage) for stage in (state, score_maps, metrics))
        drawn = work.upstream.of(synthetic).version
        judged = read_judgement(work.store, maps_head.version, metrics_head.version, drawn)
        return ChampionCandidate(
            state_head.version,
            maps_head.version,
            metrics_head.version,
            settings_of(method_of(state, work.partition), extractor),
            metrics_head.parts["truth"],
            numbers,
            sum(bool(image["label"]) for image in read_scored_images(work.input(metrics)).images),
            maps_head.parts.get(PART, ""),
            drawn,
            judged.numbers() if judged else {},
            work.upstream.of(bundle).version if bundle else "",
        )

    def build(work: Work) -> dict[str, Any]:
        work.store.write_json(work.artifact.at(CANDIDATE), asdict(candidate(work)))
        return {}

    def answer_checks(work: Work) -> CheckReport:
        challenger = candidate(work)
        settings: ChampionSettings = work.settings
        families = partial(families_of, work, state, by_group)
        gates = Gates(work, challenger, state, metrics, bundle, settings.floors, settings.margin, families)
        known = read_history(work.store, work.stage.key[0], lane, work.partition)
        standing = gates.standing(known)

        def change(before: History) -> History:
            nonlocal standing
            if before != known:  # another process wrote meanwhile
                standing = gates.standing(before)
            return gates.after(before, standing)

        rival = known.champion if known.champion and known.champion.state != challenger.state else None
        agreed = agreement(work, state, score_maps, metrics, rival) if rival else ""
        history = update_history(work.store, work.stage.key[0], lane, work.partition, change)
        point_to_bundle(work.store, work.stage.key[0], lane, work.partition)
        told = {k: v for k, v in work.input(metrics).facts().items() if k == DECISION}
        told |= {"agreement": agreed} if agreed else {}
        return CheckReport(gates.results(standing), {**_described(history, standing.kept_out), **told})

    return Stage(
        key=(dataset.name, detector.name, "champion"),
        kind="champion",
        settings=ChampionSettings(VERSION, production.floors, production.margin),
        deps=read,
        address=parts,
        build=build,
        answer_checks=answer_checks,
        check_store=partial(check_store, dataset) if dataset.production else None,
        checks=CHECKS,
        partitions=metrics.partitions,
        group=f"{dataset.name}/{detector.lane}",
        kinds=frozenset({"json"}),
        description="The state that predictions use. A new one takes its place only if it passes the gates.",
    )


def read_candidate(artifact: Artifact) -> ChampionCandidate:
    """The state that a champion artifact offers for promotion."""
    path = artifact.at(CANDIDATE)
    with artifact.store.valid_content(path):
        return ChampionCandidate(**artifact.store.read_json(path))


def _described(history: History, kept: str) -> dict[str, Any]:
    if not history.entries:
        return {"champion": "none", "kept_out": kept}
    last = history.entries[-1]
    return {
        "champion": last.candidate.state,
        "since": last.when,
        "reason": f"{last.action}: {last.reason}",
        "changes": len(history.entries),
        **({"kept_out": kept} if kept else {}),
        **{
            f"champion_{metric}": last.candidate.numbers[metric]
            for metric in compared()
            if metric in last.candidate.numbers
        },
        **{f"champion_{name}": value for name, value in last.candidate.judged.items()},
        **_promised(last.candidate.judged),
    }


def _promised(judged: Mapping[str, float]) -> dict[str, str]:
    """What the images that the champion was judged by say of its rate of false alarms, in words."""
    images = round(judged.get("judging_images", 0))
    alarms = round(images * judged.get("false_alarm_rate", 0))
    return {"champion_promises": rate_in_words(alarms, images)} if images else {}
