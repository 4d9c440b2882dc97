"""The Dagster definitions of a benchmark file."""

from __future__ import annotations

import logging
import warnings

import dagster as dg

from ad_assets.config.benchmark import Benchmark
from ad_assets.defs.assets import to_asset
from ad_assets.defs.conditions import up_to_date
from ad_assets.defs.schedules import automation_of
from ad_assets.defs.terminal import terminal_logger
from ad_assets.graph.categories import why_unseen
from ad_assets.graph.lanes import stages_of
from ad_assets.graph.stage import Stage
from ad_assets.prediction.new_image_gate import NewImageGate
from resources.fixed import fixed_resource

_LOG = logging.getLogger(__name__)


def build_definitions(benchmark: Benchmark) -> tuple[dg.Definitions, list[Stage]]:
    """The Dagster definitions of a benchmark, and the stages that they wrap."""
    stages = stages_of(benchmark, unseen=benchmark.datasets, gate=NewImageGate)
    for stage in stages:
        if stage.kind == "image_index" and (reason := why_unseen(stage.partitions)):
            _LOG.warning("%s: %s", stage.key[0], reason)
    with warnings.catch_warnings():
        # Dagster warns at every start that partitioned checks and conditions are in beta.
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return _define(benchmark, stages), stages


def _define(benchmark: Benchmark, stages: list[Stage]) -> dg.Definitions:
    condition = up_to_date(benchmark, stages)
    automation = automation_of(benchmark, stages)
    return dg.Definitions(
        # One at a time on the accelerator, which each would fill; without one, categories run side by side.
        assets=[to_asset(stage, condition, pooled=benchmark.compute.may_use_gpu()) for stage in stages],
        jobs=automation.jobs,
        sensors=automation.sensors,
        schedules=automation.schedules,
        loggers={"terminal": terminal_logger},
        resources={
            "store": fixed_resource(benchmark.store, "Where artifacts lie: the section `store` of the benchmark file."),
            "compute": fixed_resource(benchmark.compute, "Device, memory and threads: its section `compute`."),
        },
        # One process a category: torch is imported once, and features read once serve all detectors.
        executor=dg.in_process_executor,
    )
