"""When assets materialize by themselves: whatever is not current, in order, once, while its window is open.

`Due` asks the `Graph`, which reads the store; the rest is Dagster's: nothing runs twice at once, and nothing runs
beside what it reads.
"""

from __future__ import annotations

import datetime
import zoneinfo
from collections.abc import Sequence
from typing import Any

import dagster as dg
from croniter import croniter

from ad_assets.collector import rare_collection
from ad_assets.config.benchmark import Automation, Benchmark
from ad_assets.graph.graph import Graph
from ad_assets.graph.stage import Stage

SENSOR = "bring_up_to_date"
MOST_ASSETS = 500  # of one sensor in a code server: Dagster refuses more at every tick


class Window:
    """When automation may start runs: always, or at night.

    Args:
        automation: the section of the benchmark file.
    """

    def __init__(self, automation: Automation) -> None:
        self._automation = automation

    def is_open(self, timestamp: float) -> bool:
        """Whether runs may start at a time, in seconds since 1970.

        Always in manual mode too: its sensors are stopped, until a person starts one.
        """
        if self._automation.mode != "nightly":
            return True
        now = datetime.datetime.fromtimestamp(timestamp, zoneinfo.ZoneInfo(self._automation.timezone))
        opened = croniter(self._automation.nightly, now + datetime.timedelta(seconds=1)).get_prev(datetime.datetime)
        return now - opened < datetime.timedelta(hours=self._automation.nightly_hours)


class Due(dg.AutomationCondition[dg.AssetKey]):
    """True of the partitions that are not what they would be, and can be made so.

    Args:
        graph: all assets on their store.
        window: when runs may start.
    """

    def __init__(self, graph: Graph, window: Window) -> None:
        self._graph = graph
        self._window = window
        self._looked: datetime.datetime | None = None
        self._event: int | None = None

    @property
    def name(self) -> str:
        """The mark in the UI."""
        return "due"

    @property
    def description(self) -> str:
        """What the UI says of it."""
        return "not what its settings and its images give; what it reads is, or is due before it"

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        """The due partitions among the candidates."""
        view = context.asset_graph_view
        self.look_once(context)
        candidates = context.candidate_subset
        if candidates.is_empty or not self._window.is_open(context.evaluation_time.timestamp()):
            return dg.AutomationResult(context, context.get_empty_subset())
        key, slots = tuple(context.key.path), candidates.expensively_compute_asset_partitions()
        due = {slot for slot in slots if self._graph.is_due((key, slot.partition_key))}
        if due and self._last_event(view.instance) != self._event:
            # A run went on since the look. What it has made is not in progress any more, and not due.
            self._look(view.instance)
            due = {slot for slot in slots if self._graph.is_due((key, slot.partition_key))}
        return dg.AutomationResult(context, view.get_asset_subset_from_asset_partitions(context.key, due))

    def look_once(self, context: dg.AutomationContext[dg.AssetKey]) -> None:
        """One look for all assets of a tick."""
        if self._looked != context.evaluation_time:
            self._look(context.asset_graph_view.instance)
            self._looked = context.evaluation_time

    @rare_collection()
    def _look(self, instance: dg.DagsterInstance) -> None:
        self._event = self._last_event(instance)
        self._graph.refresh()

    @staticmethod
    def _last_event(instance: dg.DagsterInstance) -> int | None:
        return instance.event_log_storage.get_maximum_record_id()


class Overdue(dg.AutomationCondition[dg.AssetKey]):
    """True of assets over all categories that wait no longer for those that keep changing.

    Args:
        due: whose look at the graph is shared.
        graph: the same.
        automation: the section of the benchmark file.
    """

    def __init__(self, due: Due, graph: Graph, automation: Automation) -> None:
        self._due = due
        self._graph = graph
        self._seconds = 60 * automation.results_minutes
        self._window = Window(automation)

    @property
    def name(self) -> str:
        """The mark in the UI."""
        return "overdue"

    @property
    def description(self) -> str:
        """What the UI says of it."""
        return "has waited long for categories that keep changing; made of those that are up to date"

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        """The candidate, if it is overdue."""
        self._due.look_once(context)
        candidates = context.candidate_subset
        is_open = self._window.is_open(context.evaluation_time.timestamp())
        key = tuple(context.key.path)
        is_overdue = self._graph.is_overdue((key, None), self._seconds)
        if is_open and not candidates.is_empty and is_overdue:
            return dg.AutomationResult(context, candidates)
        return dg.AutomationResult(context, context.get_empty_subset())


def sensor_status(benchmark: Benchmark) -> dg.DefaultSensorStatus:
    """Whether the sensors that start runs are on from the start; in manual mode a person starts them in the UI."""
    return dg.DefaultSensorStatus.STOPPED if benchmark.automation.mode == "manual" else dg.DefaultSensorStatus.RUNNING


def up_to_date(benchmark: Benchmark, stages: list[Stage]) -> dg.AutomationCondition[Any]:
    """The condition of every asset."""
    condition = dg.AutomationCondition
    graph = Graph(stages, benchmark.store)
    due = Due(graph, Window(benchmark.automation))
    overdue = Overdue(due, graph, benchmark.automation)
    waits = condition.any_deps_match(due & ~condition.will_be_requested())
    settled = ~condition.in_progress() & ~condition.any_deps_in_progress()
    return ((settled & due & ~waits) | (~condition.in_progress() & overdue)).with_label("up to date")


def condition_sensors(
    benchmark: Benchmark, keys: Sequence[dg.AssetKey], name: str = ""
) -> list[dg.AutomationConditionSensorDefinition]:
    """The sensors that evaluate the conditions of some assets, in the code server, for they look at the store.

    One has `MOST_ASSETS` at most. Those of a dataset stay together as far as that admits: what one sensor asks for
    at once is one run a category, and what another sensor's assets read is waited for.

    Args:
        benchmark: the file that the assets are of.
        keys: all of them, upstream first; the conditions of other assets of a project are left to its own sensors.
        name: begins the sensors' names, which a code location has once.
    """
    first = f"{name}_{SENSOR}" if name else SENSOR
    return [
        dg.AutomationConditionSensorDefinition(
            f"{first}_{number}" if number > 1 else first,
            target=dg.AssetSelection.assets(*part),
            use_user_code_server=True,
            minimum_interval_seconds=benchmark.automation.every_seconds,
            default_status=sensor_status(benchmark),
            description="Starts runs for whatever is not what its settings and images give.",
        )
        for number, part in enumerate(_spread(keys), start=1)
    ]


def _spread(keys: Sequence[dg.AssetKey]) -> list[list[dg.AssetKey]]:
    """The keys in parts of `MOST_ASSETS` at most, the datasets in their order."""
    datasets: dict[str, list[dg.AssetKey]] = {}
    for key in keys:
        datasets.setdefault(key.path[0], []).append(key)
    parts: list[list[dg.AssetKey]] = [[]]
    for own in datasets.values():
        if len(parts[-1]) + len(own) > MOST_ASSETS and parts[-1]:
            parts.append([])
        for key in own:
            if len(parts[-1]) == MOST_ASSETS:
                parts.append([])
            parts[-1].append(key)
    return parts
