"""The Dagster definitions of a benchmark file: alone in a code location, or beside what else a project defines."""

from __future__ import annotations

import logging
import warnings

import dagster as dg

from ad_assets.config.benchmark import Benchmark
from ad_assets.defs.assets import to_asset
from ad_assets.defs.bring_up_to_date import bring_up_to_date_job
from ad_assets.defs.conditions import up_to_date
from ad_assets.defs.current_checks import current_checks, current_sensor
from ad_assets.defs.inspections import inspections_asset
from ad_assets.defs.schedules import automation_of
from ad_assets.defs.terminal import terminal_logger
from ad_assets.graph.categories import why_unseen
from ad_assets.graph.lanes import stages_of
from ad_assets.graph.stage import Stage
from ad_assets.prediction.new_image_gate import NewImageGate

_LOG = logging.getLogger(__name__)


def build_definitions(benchmark: Benchmark) -> tuple[dg.Definitions, list[Stage]]:
    """What commands run of a benchmark: its assets and their jobs, and the stages that the assets wrap.

    Every run is one process, with the logger of the terminal.
    """
    own, stages = _asset_definitions(benchmark)
    # One process a category: torch is imported once, and features read once serve all detectors.
    location = dg.Definitions(loggers={"terminal": terminal_logger}, executor=dg.in_process_executor)
    return dg.Definitions.merge(own, location), stages


def location_definitions(benchmark: Benchmark) -> dg.Definitions:
    """The definitions of a code location that is a benchmark's alone."""
    own, _ = benchmark_definitions(benchmark)
    return dg.Definitions.merge(own, dg.Definitions(executor=dg.in_process_executor))


def benchmark_definitions(benchmark: Benchmark, name: str = "") -> tuple[dg.Definitions, list[Stage]]:
    """All definitions of a benchmark, and the stages that its assets wrap.

    What people and the daemon use beside the assets are the checks `current` and the job `bring_up_to_date`. Runs of
    commands go without: each would answer the checks once more.

    Nothing that a code location has only once is among them (resources, loggers, an executor), so they merge with
    those of any project, and of further benchmarks whose datasets have other names.

    Args:
        benchmark: the checked benchmark file.
        name: begins the names of what is not a dataset's; empty where there is one benchmark.
    """
    own, stages = _asset_definitions(benchmark, name)
    if not stages:
        return own, stages
    further = dg.Definitions(
        asset_checks=[current_checks(benchmark, stages, name)],
        sensors=[current_sensor(benchmark, stages, name)],
        jobs=[bring_up_to_date_job(benchmark, lambda: build_definitions(benchmark), name)],
    )
    return dg.Definitions.merge(own, further), stages


def _asset_definitions(benchmark: Benchmark, name: str = "") -> tuple[dg.Definitions, list[Stage]]:
    """The assets with the jobs, sensors and schedules of their datasets, and the stages that the assets wrap."""
    stages = stages_of(benchmark, unseen=benchmark.datasets, gate=NewImageGate)
    for stage in stages:
        if stage.kind == "image_index" and (reason := why_unseen(stage.partitions)):
            _LOG.warning("%s: %s", stage.key[0], reason)
    with warnings.catch_warnings():
        # Dagster warns at every start that partitioned checks and conditions are in beta.
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        condition = up_to_date(benchmark, stages)
        automation = automation_of(benchmark, stages, name)
        roots = {stage.key[0]: stage for stage in stages if stage.kind == "image_index"}
        inspected = [
            inspections_asset(benchmark, benchmark.datasets[name], index)
            for name, index in roots.items()
            if benchmark.datasets[name].production
        ]
        definitions = dg.Definitions(
            assets=[*(to_asset(stage, benchmark, condition) for stage in stages), *inspected],
            jobs=automation.jobs,
            sensors=automation.sensors,
            schedules=automation.schedules,
        )
    return definitions, stages
