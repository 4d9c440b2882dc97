"""The asset ``<dataset>/inspections``: what was inspected, whether anything has drifted, whether a category is quiet.

It is no stage of the graph: nothing is made of it, and it would be stale after every prediction. A sensor looks at the
names of the inspection files, and asks for a run of a category once there are new ones and some minutes have passed. So
no prediction starts a run. People may materialize it at any time.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ad_assets.config.benchmark import Benchmark, Dataset, Production
from ad_assets.config.faults import ConfigError
from ad_assets.defs.conditions import sensor_status
from ad_assets.defs.partitions import partitions_of
from ad_assets.graph.stage import Stage
from ad_assets.prediction.inspection_summary import InspectionSummary, last_landed, summarise
from ad_assets.prediction.line_outbox import take_in
from ad_assets.production.inspections import InspectionFile, all_files
from ad_assets.production.store_identity import check_store
from ad_assets.report import inspection_charts
from ad_assets.report.picture_files import figure_png
from ad_assets.report.thumbnails import thumbnail_uri
from ad_assets.store.store import CorruptArtifactError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFRESH_SECONDS = 600.0  # between two runs of a category
MOST_AT_ONCE = 2  # categories a tick, since images that land need runs too
NO_DRIFT, NOT_QUIET = "no_drift", "not_quiet"


def inspections_asset(benchmark: Benchmark, dataset: Dataset, index: Stage) -> dg.AssetsDefinition:
    """The asset of a production dataset.

    Args:
        benchmark: the file that the dataset is of.
        dataset: a production dataset.
        index: its image index, whose categories it has.
    """
    key, store = dg.AssetKey([dataset.name, "inspections"]), benchmark.store
    partitions, production = partitions_of(index), dataset.production or Production()

    @dg.asset(
        key=key,
        partitions_def=partitions,
        group_name=f"{dataset.name}/images",
        kinds={"parquet"},
        owners=benchmark.owners,
        description="What champions said of images: by `predict`, by the library, and of new images in the watched "
        "folder. Its sensor refreshes it some minutes after new inspections.",
        check_specs=[
            dg.AssetCheckSpec(name, asset=key, description=description, partitions_def=partitions)
            for name, description in (
                (
                    NO_DRIFT,
                    "Scores, brightness and contrast are what they were: of these tests, conformal test martingales, "
                    "one speaks without cause with a chance of at most drift_alpha.",
                ),
                (NOT_QUIET, "Images were inspected or landed within the last quiet_hours (production)."),
            )
        ],
    )
    def body(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
        check_store(dataset, store, context.instance)
        summary = summarise(store, dataset, context.partition_key)
        yield dg.MaterializeResult(
            metadata=_described(summary),
            check_results=[
                dg.AssetCheckResult(
                    check_name=name, passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata=metadata
                )
                for name, passed, metadata in _answers(summary, production, datetime.now(UTC))
            ],
        )

    return body


@dataclass(frozen=True)
class Asked:
    """What a category was like when the sensor last asked for a run of it, and when that was.

    Args:
        rows: number of its inspections.
        last: time of the last one.
        quiet: whether it was quiet.
        when: seconds since 1970.
    """

    rows: int = 0
    last: str = ""
    quiet: bool = False
    when: float = 0.0


def inspections_sensor(benchmark: Benchmark, dataset: Dataset, production: Production) -> dg.SensorDefinition:
    """The sensor ``<dataset>_inspections``."""

    @dg.sensor(
        name=f"{dataset.name}_inspections",
        asset_selection=[dg.AssetKey([dataset.name, "inspections"])],
        minimum_interval_seconds=benchmark.automation.every_seconds,
        default_status=sensor_status(benchmark),
        description="Notices new inspections, and categories that are quiet or are so no more.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return look(benchmark, dataset, production, context.instance, context.cursor, time.time())

    return sensor


def look(
    benchmark: Benchmark,
    dataset: Dataset,
    production: Production,
    instance: dg.DagsterInstance,
    cursor: str | None,
    now: float,
) -> dg.SensorResult:
    """What the sensor answers, given its cursor and the time in seconds since 1970.

    It opens no file but those of the line's outboxes, which it takes in.
    """
    asked = {name: Asked(**entry) for name, entry in json.loads(cursor or "{}").items()}
    faults: list[str] = []
    try:
        check_store(dataset, benchmark.store, instance)
        faults = list(_take_in(benchmark, dataset.name, production.outboxes))
        found = all_files(benchmark.store, dataset.name)
        landed = last_landed(benchmark.store, dataset.name)
    except (ConfigError, CorruptArtifactError, OSError) as error:
        return dg.SensorResult(skip_reason=f"nothing is told: {error}", cursor=cursor)
    known = set(instance.get_dynamic_partitions(dataset.name))
    after = {name: entry for name, entry in asked.items() if name in known}
    requests: list[dg.RunRequest] = []
    # Who was asked for longest ago comes first, so that no category waits for ever.
    for category in sorted(known, key=lambda name: (asked.get(name, Asked()).when, name)):
        before, files = asked.get(category, Asked()), found.get(category, [])
        times = [*(file.last for file in files), *([landed[category]] if category in landed else [])]
        seen = _seen(files, times, production, now)
        is_new = (seen.rows, seen.last) != (before.rows, before.last) and now - before.when >= REFRESH_SECONDS
        if (is_new or seen.quiet != before.quiet) and len(requests) < MOST_AT_ONCE:
            after[category] = seen
            run_key = f"{dataset.name}:{category}:inspections:{int(now)}"
            requests.append(dg.RunRequest(run_key=run_key, partition_key=category))
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else "; ".join(faults) or "no new inspections, or asked for them just now",
        cursor=json.dumps({name: asdict(entry) for name, entry in after.items()}),
    )


def _take_in(benchmark: Benchmark, dataset: str, outboxes: Sequence[str]) -> Iterator[str]:
    """Take in what lies in the outboxes of a line; why where that fails, so that one does not hold up the others."""
    for outbox in outboxes:
        try:
            yield from (f"{path}: {why}" for path, why in take_in(benchmark, outbox, dataset).refused.items())
        except (OSError, ImportError, ValueError) as error:  # such as an unknown kind of address
            yield f"{outbox} cannot be taken in: {error}"


def _seen(files: Sequence[InspectionFile], times: Sequence[datetime], production: Production, now: float) -> Asked:
    last = max((file.last for file in files), default=None)
    hours = production.quiet_hours
    quiet = bool(hours and times and datetime.fromtimestamp(now, UTC) - max(times) > timedelta(hours=hours))
    return Asked(sum(file.rows for file in files), last.isoformat() if last else "", quiet, now)


def _described(summary: InspectionSummary) -> dict[str, Any]:
    """Metadata for people."""
    rows = summary.rows
    described: dict[str, Any] = {"inspections": summary.total}
    if not rows:
        return described
    sources = Counter(row.source for row in rows)
    chart = inspection_charts.inspection_chart(
        [row.time for row in rows],
        [row.score for row in rows],
        [bool(row.anomalous) for row in rows],
        rows[-1].threshold,
    )
    return described | {
        "shown": len(rows),
        "anomalous": summary.alarms,
        "alarm_rate": summary.alarms / len(rows),
        "sources": ", ".join(f"{source} {count}" for source, count in sorted(sources.items())),
        "last": rows[-1].time.isoformat(timespec="seconds"),
        "scores": _picture("scores and alarms", chart),
    }


def _picture(title: str, figure: "Figure") -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![{title}]({thumbnail_uri(figure_png(figure))})")


def _answers(
    summary: InspectionSummary, production: Production, now: datetime
) -> Iterator[tuple[str, bool, Mapping[str, Any]]]:
    """Name, answer and metadata of each check."""
    tests = summary.drift
    chart = inspection_charts.drift_chart([(t.subject, t.wealth, t.limit) for t in tests]) if tests else None
    earlier = sorted(when for test in tests for when in test.earlier_alarms)
    yield (
        NO_DRIFT,
        all(test.alarm is None for test in tests),
        {
            "drift": "\n".join(map(str, tests)) or "nothing was inspected yet",
            "alpha": production.drift_alpha,
            **({"wealth": _picture("wealth of the drift tests", chart)} if chart else {}),
            **({"earlier": ", ".join(f"{when:%Y-%m-%d %H:%M} UTC" for when in earlier[-10:])} if earlier else {}),
            **({"not_tested": f"{summary.unknown} inspections of unknown champions"} if summary.unknown else {}),
        },
    )
    hours = production.quiet_hours
    yield (
        NOT_QUIET,
        not summary.is_quiet(production, now),
        {
            "last": summary.last.isoformat(timespec="seconds") if summary.last else "nothing was inspected or landed",
            "quiet_hours": "off" if hours is None else hours,
        },
    )
