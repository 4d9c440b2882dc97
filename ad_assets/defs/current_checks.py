"""The check ``current`` of every asset: whether it is what the settings and the images give now, and why not.

Dagster compares versions that it has recorded, one level at a time, and says nothing of assets with partitions in its
graph. This check asks the `Graph`, all the way up. A sensor answers it after a reload and whenever something changed;
its button in the UI answers it at once. It is one check an asset and not one a category, since Dagster's graph shows of
a check with partitions only what the last category answered.
"""

# No postponed annotations: Dagster reads them when the check is defined.
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import dagster as dg

from ad_assets.config.benchmark import Benchmark, fingerprint
from ad_assets.defs.currency import LOOKING_SHARE, Currency, CurrencyLook, Pace
from ad_assets.graph.stage import Key, Stage

CURRENT, SENSOR = "current", "current_assets"
DESCRIPTION = "Every category that was made is what the settings and images give now; else why it is not."
# A changed answer is told at the next look. The same one, of newer categories, seldom: each telling is an event.
REPEAT_SECONDS = 60.0


@dataclass
class Told:
    """What was last told of an asset: a fingerprint of it, whether it passed, and when, in seconds since 1970."""

    what: str = ""
    passed: bool = True
    when: float = 0.0


def current_checks(benchmark: Benchmark, stages: Sequence[Stage], name: str = "") -> dg.AssetChecksDefinition:
    """The check of every asset, as one operation that answers those that are asked.

    Args:
        benchmark: the checked benchmark file.
        stages: all its stages.
        name: begins the operation's name, which a code location has once.
    """

    @dg.multi_asset_check(
        name=f"{name}_{CURRENT}" if name else CURRENT,
        specs=[
            dg.AssetCheckSpec(CURRENT, asset=dg.AssetKey(list(each.key)), description=DESCRIPTION) for each in stages
        ],
        can_subset=True,
    )
    def current(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        found = CurrencyLook(benchmark, stages)(list_files=True)
        for check in context.selected_asset_check_keys:
            currency = found.get(tuple(check.asset_key.path), Currency(0, {}))
            yield dg.AssetCheckResult(asset_key=check.asset_key, check_name=CURRENT, **_answer(currency))

    return current


def current_sensor(benchmark: Benchmark, stages: Sequence[Stage], name: str = "") -> dg.SensorDefinition:
    """The sensor that answers the checks as things change; it starts nothing.

    Args:
        benchmark: the checked benchmark file.
        stages: all its stages.
        name: begins the sensor's name, which a code location has once.
    """
    look, pace = CurrencyLook(benchmark, stages), Pace(LOOKING_SHARE)

    @dg.sensor(
        name=f"{name}_{SENSOR}" if name else SENSOR,
        minimum_interval_seconds=benchmark.automation.every_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Answers the check `current` of every asset when settings, images or files change.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        if not pace.is_due():
            return dg.SensorResult(skip_reason="looked a moment ago, for long", cursor=context.cursor)
        with pace:
            found = look()
        told = {name: Told(**entry) for name, entry in json.loads(context.cursor or "{}").items()}
        events, told = news(found, told, _last_events(context.instance, stages), time.time())
        kept = json.dumps({name: asdict(entry) for name, entry in told.items()})
        reason = f"{len(events)} checks answered" if events else "nothing has changed"
        return dg.SensorResult(skip_reason=reason, asset_events=events, cursor=kept)

    return sensor


def news(
    found: Mapping[Key, Currency], told: Mapping[str, Told], materialized: Mapping[Key, int], now: float
) -> tuple[list[dg.AssetCheckEvaluation], dict[str, Told]]:
    """The answers that are to be told, and what has been told then.

    A check that was answered before the asset materialized last shows as not answered in the UI, so it is answered
    again.

    Args:
        found: what a look found.
        told: by the name of the asset.
        materialized: number of the last event of each asset that Dagster has on record.
        now: seconds since 1970.
    """
    events, after = [], {}
    for key in found.keys() & materialized.keys():
        name, currency = "/".join(key), found[key]
        before = told.get(name, Told())
        what = fingerprint([currency.reasons, materialized[key]])
        turned = not before.what or before.passed == bool(currency.reasons)
        after[name] = before
        if what != before.what and (turned or now - before.when >= REPEAT_SECONDS):
            after[name] = Told(what, not currency.reasons, now)
            events.append(dg.AssetCheckEvaluation(dg.AssetKey(list(key)), CURRENT, **_answer(currency)))
    return events, after


def _answer(currency: Currency) -> dict[str, Any]:
    remedy = {"why": currency.why, "remedy": "materialize, or run the job bring_up_to_date"}
    return {
        "passed": not currency.reasons,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": currency.summary,
        "metadata": remedy if currency.reasons else {},
    }


def _last_events(instance: dg.DagsterInstance, stages: Collection[Stage]) -> dict[Key, int]:
    """The number of the last materialization of each asset that has one."""
    records = instance.get_asset_records([dg.AssetKey(list(stage.key)) for stage in stages])
    entries = (record.asset_entry for record in records)
    return {
        tuple(entry.asset_key.path): entry.last_materialization_record.storage_id
        for entry in entries
        if entry.last_materialization_record
    }
