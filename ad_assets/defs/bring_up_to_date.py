"""The job ``bring_up_to_date``: what ``ad-assets materialize`` does, as a button of the UI.

Dagster's own "Materialize unsynced" sees one level of changes, and none in assets with partitions. This job makes the
plan of the command and carries it out in its own process: a run a category, each on record by itself.
"""

# No postponed annotations: Dagster reads them when the job is defined.
from collections.abc import Callable, Collection, Sequence

import dagster as dg
from pydantic import Field

from ad_assets.config.benchmark import Benchmark
from ad_assets.config.faults import ConfigError, check_name
from ad_assets.defs.partitions import register_categories
from ad_assets.defs.plan import plan
from ad_assets.defs.runs import execute
from ad_assets.graph.graph import Graph
from ad_assets.graph.stage import Stage

NAME = "bring_up_to_date"


class BringUpToDate(dg.Config):
    """What is brought up to date."""

    datasets: list[str] = Field([], description="Only the assets of these datasets; none named: all.")
    categories: list[str] = Field([], description="Only these categories; none named: all.")
    verify: bool = Field(False, description="Read every image and stored file again; make anew what is damaged.")


def bring_up_to_date_job(
    benchmark: Benchmark, assets: Callable[[], tuple[dg.Definitions, Sequence[Stage]]], name: str = ""
) -> dg.JobDefinition:
    """The job of a benchmark.

    Args:
        benchmark: the checked benchmark file.
        assets: gives the definitions of its assets and their stages.
        name: begins the job's name, which a code location has once.
    """

    @dg.op(name=f"{name}_make" if name else "make")
    def make(context: dg.OpExecutionContext, config: BringUpToDate) -> None:
        definitions, stages = assets()
        _check_names("dataset", config.datasets, {stage.key[0] for stage in stages})
        _check_names("category", config.categories, {each for stage in stages for each in stage.partitions or ()})
        register_categories(stages, context.instance)
        steps = plan(
            benchmark,
            Graph(stages, benchmark.store),
            context.instance,
            selected={stage.key for stage in stages if stage.key[0] in config.datasets} if config.datasets else None,
            categories=config.categories or None,
            verify=config.verify,
        )
        context.log.info(f"{len(steps)} asset partitions are not up to date" if steps else "everything is up to date")
        outcome = execute(steps, definitions, context.instance, verify=config.verify, before=context.log.info)
        context.add_output_metadata(
            {"built": outcome.built, "found": outcome.found, "failed": len(outcome.failures)}
            | ({"waiting": "\n".join(outcome.waiting)} if outcome.waiting else {})
        )
        if outcome.failures:
            raise dg.Failure("\n".join(outcome.failures), allow_retries=False)

    @dg.job(
        name=f"{name}_{NAME}" if name else NAME,
        description="Makes whatever is not what the settings and the images give, in order, as `ad-assets materialize` "
        "does. What is in the store is found.",
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        make()

    return job


def _check_names(what: str, asked: Collection[str], known: Collection[str]) -> None:
    try:
        for name in asked:
            check_name(what, name, sorted(known))
    except ConfigError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
