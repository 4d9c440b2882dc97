"""The champion of a lane and category: a new state takes its place if it passes the gates of the benchmark file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Dataset, Detector, Production
from ad_assets.graph.stage import Check, CheckReport, CheckResult, Parts, Stage, StageSettings, Upstream, Work
from ad_assets.graph.stages.bundle import read_parity
from ad_assets.graph.stages.champion_bundle import point_to_bundle
from ad_assets.graph.stages.fed_back_alarms import alarms_on, learnt_images
from ad_assets.graph.stages.fitted_state import method_of
from ad_assets.graph.stages.judgement import ALARMS, SYNTHETIC, agreement, families_of, read_judgement, verdicts_of
from ad_assets.graph.stages.metrics import DECISION, rate_of, read_rows, read_scored_images
from ad_assets.graph.stages.region_of_interest import PART
from ad_assets.metrics.catalogue import compared
from ad_assets.production.champion_history import (
    PROMOTED,
    ChampionCandidate,
    History,
    KeptOut,
    behind_champion,
    below_floors,
    not_measurable,
    read_history,
    settings_of,
    update_history,
)
from ad_assets.production.feedback_ledger import false_alarms
from ad_assets.production.nominal_gates import Verdict, rate_in_words
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
        unknown = not_measurable(challenger, settings.floors)
        floors = {metric: floor for metric, floor in settings.floors.items() if metric not in unknown}
        below = below_floors(challenger.numbers, floors)
        behind: list[str] = []
        verdicts: dict[str, Verdict] = {}
        repeated: list[str] = []
        kept = ""
        differs = [f"its bundle: {fault}"] if bundle and (fault := read_parity(work.input(bundle)).fault) else []
        said = false_alarms(work.store, work.stage.key[0], work.partition)
        learnt = learnt_images(work, state.kind, challenger, said)
        rate = rate_of(metrics, work.partition)
        alarms = (alarms_on(work, state.kind, challenger, learnt, rate) or set()) if learnt else set()
        families = partial(families_of, work, state, by_group)

        def _repeated(alarms: set[str], champion: ChampionCandidate | None) -> list[str]:
            """The false alarms that are raised again, though the champion had learnt not to raise them."""
            if not alarms or champion is None or champion.state == challenger.state:
                return []
            before = alarms_on(work, state.kind, champion, sorted(alarms), rate)
            again = sorted(alarms - (before or set()))
            return [f"alarms on the false alarm {image[:12]}, and the champion does not" for image in again]

        def change(before: History) -> History:
            nonlocal behind, verdicts, repeated, kept
            behind = behind_champion(challenger, before.champion, settings.margin)
            verdicts = verdicts_of(work.store, challenger, before.champion, settings.margin, families)
            reasons = [verdict.why for verdict in verdicts.values() if verdict.keeps_out]
            repeated = _repeated(alarms, before.champion)
            refused = challenger.state in before.refused
            rolled_back = ["it was rolled back from"] if refused else []
            kept = "; ".join([*below, *behind, *reasons, *repeated, *differs, *rolled_back])
            if kept:
                return replace(before, kept_out=KeptOut(challenger.state, kept))
            if _same(before.champion, challenger):
                return replace(before, kept_out=None)
            return before.with_champion(challenger, PROMOTED, "passed its gates" if before.champion else "the first")

        before = read_history(work.store, work.stage.key[0], lane, work.partition).champion
        rival = before if before and before.state != challenger.state else None
        agreed = agreement(work, state, score_maps, metrics, rival) if rival else ""
        history = update_history(work.store, work.stage.key[0], lane, work.partition, change)
        point_to_bundle(work.store, work.stage.key[0], lane, work.partition)
        check_results = (
            CheckResult("above_floors", not below, {"why": _of_floors(below, unknown)}),
            CheckResult("no_worse_than_champion", not behind, {"why": "; ".join(behind) or "no metric fell behind"}),
            *(CheckResult(name, verdict.passed, {"why": verdict.why}) for name, verdict in verdicts.items()),
            CheckResult("no_alarm_on_feedback", not alarms, {"why": _of_feedback(len(learnt), alarms, repeated)}),
        )
        told = {k: v for k, v in work.input(metrics).facts().items() if k == DECISION}
        told |= {"agreement": agreed} if agreed else {}
        return CheckReport(check_results, {**_described(history, kept), **told})

    return Stage(
        key=(dataset.name, detector.name, "champion"),
        kind="champion",
        settings=ChampionSettings(VERSION, production.floors, production.margin),
        deps=read,
        address=parts,
        build=build,
        answer_checks=answer_checks,
        check_store=partial(check_store, dataset) if dataset.production else None,
        checks=(
            Check("above_floors", "No metric of the new state is below the floor that the benchmark file sets."),
            Check(
                "no_worse_than_champion", "No metric of the new state is behind the champion's by more than the margin."
            ),
            Check(
                ALARMS,
                "On good images that it has not learnt the new state alarms no more often than its threshold promises "
                "and than the champion does.",
            ),
            Check(
                SYNTHETIC,
                "The new state sees no fewer synthetic anomalies than the champion, by more than the margin. They are "
                "a smoke alarm and say nothing of the rate of real defects.",
            ),
            Check(
                "no_alarm_on_feedback",
                "The new state raises no alarm for an image that a person called a false alarm and that it has learnt.",
            ),
        ),
        partitions=metrics.partitions,
        group=f"{dataset.name}/{detector.name}",
        kinds=frozenset({"json"}),
        description="The state that predictions use. A new one takes its place only if it passes the gates.",
    )


def read_candidate(artifact: Artifact) -> ChampionCandidate:
    """The state that a champion artifact offers for promotion."""
    path = artifact.at(CANDIDATE)
    with artifact.store.valid_content(path):
        return ChampionCandidate(**artifact.store.read_json(path))


def _of_feedback(learnt: int, alarms: Collection[str], repeated: Sequence[str]) -> str:
    if repeated:
        return "; ".join(repeated)
    if alarms:
        images = ", ".join(image[:12] for image in sorted(alarms))
        return f"of {learnt} false alarms that it has learnt it alarms on {images} still: a person's word overrides it"
    return f"no alarm on any of {learnt} false alarms that it has learnt" if learnt else "no false alarm was fed back"


def _of_floors(below: Sequence[str], unknown: Sequence[str]) -> str:
    if unknown:
        return "; ".join([*below, f"not measurable: no anomalous test image ({', '.join(unknown)})"])
    return "; ".join(below) or "no metric is below its floor"


def _same(champion: ChampionCandidate | None, challenger: ChampionCandidate) -> bool:
    """Whether a candidate is the champion already, with the same threshold and numbers."""

    def identity(each: ChampionCandidate) -> tuple[str, ...]:
        return each.state, each.score_maps, each.metrics, each.synthetic, each.bundle

    return champion is not None and identity(champion) == identity(challenger)


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
