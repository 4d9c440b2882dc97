"""The job of a dataset, and what runs by itself: sensors for what lands and what is stale, schedules for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import dagster as dg

from ad_assets.config.benchmark import Benchmark, Dataset
from ad_assets.defs.assets import checks_of, run_config_of
from ad_assets.defs.conditions import condition_sensors
from ad_assets.defs.image_review import review_job
from ad_assets.defs.inspections import inspections_sensor
from ad_assets.defs.landing_sensor import landing_sensor
from ad_assets.defs.orphaned_runs import cut_off_sensor
from ad_assets.graph.stage import Stage, read_head
from ad_assets.graph.stages.fitted_state import STATES
from ad_assets.store.layout import MARKER
from ad_assets.store.records import recall
from ad_assets.store.store import ArtifactStore

WEEKLY = "0 3 * * 0"  # of the schedules that the file asks nothing of: a person may start them in the UI


@dataclass
class AutomationDefinitions:
    """The jobs, sensors and schedules of a benchmark."""

    jobs: list[dg.UnresolvedAssetJobDefinition | dg.JobDefinition] = field(default_factory=list)
    sensors: list[dg.SensorDefinition] = field(default_factory=list)
    schedules: list[dg.ScheduleDefinition] = field(default_factory=list)


def automation_of(benchmark: Benchmark, stages: Sequence[Stage], name: str = "") -> AutomationDefinitions:
    """A job for each dataset, and what the sections ``automation`` and ``production`` of a benchmark file ask for.

    What they do not ask for is there too, stopped: a person may start it on the page Automation.

    Args:
        benchmark: the checked benchmark file.
        stages: all its stages.
        name: begins the names of the sensors that are not a dataset's.
    """
    made = AutomationDefinitions()
    if stages:
        keys = [dg.AssetKey(list(stage.key)) for stage in stages]
        made.sensors += [*condition_sensors(benchmark, keys, name), cut_off_sensor(benchmark, keys, name)]
    for dataset in benchmark.datasets.values():
        # What follows from all categories, such as the scores of a joint bank, is brought up to date by conditions.
        own = [
            stage
            for stage in stages
            if stage.key[0] == dataset.name and stage.partitions is not None and stage.turn == 0
        ]
        if not own:  # its folder cannot be seen, and never was
            continue
        job = _category_job(dataset, own)
        made.jobs.append(job)
        if dataset.production:
            made.sensors.append(landing_sensor(benchmark, dataset, dataset.production, job))
            made.sensors.append(inspections_sensor(benchmark, dataset, dataset.production))
            made.jobs.append(review_job(benchmark, dataset, next(each for each in own if each.kind == "image_index")))
        made.schedules += [_retraining(benchmark, dataset, job, own), _verification(benchmark, dataset, job, own)]
    return made


def _category_job(dataset: Dataset, stages: Sequence[Stage]) -> dg.UnresolvedAssetJobDefinition:
    """The job that takes a category from its images to its champions: all that follows from it alone, but studies."""
    own = {dg.AssetKey(list(stage.key)): stage for stage in stages if stage.kind != "study"}
    # The check `current` is answered by its sensor, and not once more by every run.
    answered = [dg.AssetCheckKey(key, check.name) for key, stage in own.items() for check in checks_of(stage)]
    return dg.define_asset_job(
        f"{dataset.name}_category",
        selection=dg.AssetSelection.assets(*own).without_checks() | dg.AssetSelection.checks(*answered),
        description="Takes a category from its images to its metrics and champions; what is in the store is found.",
        # One process: torch is imported once, and features read once serve all detectors.
        executor_def=dg.in_process_executor,
    )


def _retraining(
    benchmark: Benchmark,
    dataset: Dataset,
    job: dg.UnresolvedAssetJobDefinition,
    stages: Sequence[Stage],
) -> dg.ScheduleDefinition:
    """Fit afresh, on all images, what images that landed since have only updated."""

    def requests(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        updated = list(updated_lanes(dataset, stages, benchmark.store))
        if not updated:
            yield dg.SkipReason("every state was fitted on all its images")
        for category, lane in updated:
            keys = [dg.AssetKey(list(stage.key)) for stage in stages if stage.key[:2] == (dataset.name, lane)]
            yield dg.RunRequest(
                run_key=f"{context.scheduled_execution_time.isoformat()}:{category}:{lane}",
                partition_key=category,
                asset_selection=keys,
                run_config=run_config_of(keys, force=True),
            )

    text = "Fits afresh what was only updated as images landed, and measures it again."
    return _schedule(f"{dataset.name}_retraining", benchmark, job, benchmark.automation.retrain, text, requests)


def _verification(
    benchmark: Benchmark,
    dataset: Dataset,
    job: dg.UnresolvedAssetJobDefinition,
    stages: Sequence[Stage],
) -> dg.ScheduleDefinition:
    """Read every image and every artifact again, and make damaged ones anew."""
    keys = [dg.AssetKey(list(stage.key)) for stage in stages if stage.kind != "study"]

    def requests(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        for category in stages[0].partitions or ():
            yield dg.RunRequest(
                run_key=f"{context.scheduled_execution_time.isoformat()}:{category}",
                partition_key=category,
                run_config=run_config_of(keys, verify=True),
            )

    text = "Reads every image and artifact again, makes damaged ones anew, and answers all checks."
    return _schedule(f"{dataset.name}_verification", benchmark, job, benchmark.automation.verify, text, requests)


def _schedule(
    name: str,
    benchmark: Benchmark,
    job: dg.UnresolvedAssetJobDefinition,
    cron: str | None,
    description: str,
    requests: Callable[[dg.ScheduleEvaluationContext], Iterator[dg.RunRequest | dg.SkipReason]],
) -> dg.ScheduleDefinition:
    decorate = dg.schedule(
        name=name,
        job=job,
        cron_schedule=cron or WEEKLY,
        execution_timezone=benchmark.automation.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if cron else dg.DefaultScheduleStatus.STOPPED,
        description=description,
    )
    return decorate(requests)


def updated_lanes(dataset: Dataset, stages: Sequence[Stage], store: ArtifactStore) -> Iterator[tuple[str, str]]:
    """Yield (category, detector) of the states that are not what a fit on all images makes, as their records say."""
    for stage in stages:
        if stage.key[0] != dataset.name or stage.kind not in STATES:
            continue
        for category in stage.partitions or ():
            head = read_head(store, stage.key, category)
            artifact = store.artifact(stage.kind, head.version) if head else None
            record = recall(store, artifact.at(MARKER)) if artifact else None  # a damaged state is due by itself
            if record and record["metadata"].get("fitted") != "on all images":
                yield category, stage.key[1]
