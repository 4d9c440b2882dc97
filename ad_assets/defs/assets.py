"""The Dagster asset of a stage. No postponed annotations here: Dagster reads them when the asset is defined."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from ad_assets.config.benchmark import Benchmark
from ad_assets.defs.asset_pages import definition_metadata
from ad_assets.defs.cores import steps_at_once
from ad_assets.defs.partitions import partitions_of
from ad_assets.graph.build import Materialized, materialize
from ad_assets.graph.build_attempts import is_temporary
from ad_assets.graph.stage import Check, Stage, StageError
from ad_assets.report.thumbnails import with_thumbnails

REPEATS = dg.RetryPolicy(
    max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)  # seconds: 10, 30
# Answered when an index cannot be made, too: a share that is not mounted shows on the page of the asset.
FOUND = Check("images_found", "The folder of the dataset is there and its images can be listed and read.")


class Materialization(dg.Config):
    """What a run may ask of an asset; all else that it reads is in the benchmark file."""

    force: bool = Field(False, description="Build the artifact again even if the store has it.")
    verify: bool = Field(False, description="Read every image and stored file again; make anew what is damaged.")


def run_config_of(keys: Iterable[dg.AssetKey], *, force: bool = False, verify: bool = False) -> dict[str, Any]:
    """The run config that asks the same of some assets."""
    asked = {name: True for name, wanted in (("force", force), ("verify", verify)) if wanted}
    return {"ops": {key.to_python_identifier(): {"config": asked} for key in keys}} if asked else {}


def to_asset(stage: Stage, benchmark: Benchmark, condition: dg.AutomationCondition[Any]) -> dg.AssetsDefinition:
    """The Dagster asset of a stage.

    Store and compute settings are the benchmark file's own objects and no Dagster resources: addresses, plan and
    conditions follow from the file, so a run that replaced them would file results where nobody looks. It also leaves
    the names of resources to the project that our assets live in.

    Args:
        stage: the stage.
        benchmark: the file that it is of.
        condition: when it materializes by itself.
    """
    key = dg.AssetKey(list(stage.key))
    store, compute = benchmark.store, benchmark.compute
    partitions = partitions_of(stage)

    @dg.asset(
        key=key,
        deps=[dg.AssetKey(list(dep.key)) for dep in stage.deps],
        partitions_def=partitions,
        code_version=stage.code_version,
        group_name=stage.group,
        kinds=set(stage.kinds),
        description=stage.description,
        owners=benchmark.owners,
        metadata=definition_metadata(stage, benchmark),
        automation_condition=condition,
        # One at a time on the accelerator, which each would fill; without one, categories run side by side.
        pool=stage.pool if compute.may_use_gpu() else None,
        check_specs=[
            dg.AssetCheckSpec(
                check.name,
                asset=key,
                description=check.description,
                blocking=check.blocking,
                partitions_def=partitions,
            )
            for check in checks_of(stage)
        ],
    )
    def body(
        context: dg.AssetExecutionContext, config: Materialization
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        compute.apply_threads(steps_at_once(context))
        partition = context.partition_key if stage.partitions is not None else None
        asked = {"force": config.force, "verify": config.verify}
        repeats = context.retry_number
        try:
            if stage.check_store:
                stage.check_store(store, context.instance)
            made = materialize(
                stage, partition, store, compute, context.log, extract=benchmark.extract, again=repeats > 0, **asked
            )
            # To the materialization alone: metadata of a result are in the event of the step's output too.
            context.add_asset_metadata(metadata_of(made))
            yield _result(stage, made)
        except StageError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        except Exception as error:
            if stage.scan and isinstance(error, ValueError | OSError):
                yield dg.AssetCheckResult(passed=False, check_name=FOUND.name, metadata={"missing": str(error)})
            if not is_temporary(error):
                raise
            # Not the asset's retry policy, by which Dagster repeats whatever fails, a wrong setting or a bug too, and a
            # step that was interrupted with Ctrl-C.
            raise dg.RetryRequested(REPEATS.max_retries, REPEATS.calculate_delay(repeats + 1)) from error

    return body


def checks_of(stage: Stage) -> tuple[Check, ...]:
    """The checks that a run of a stage answers."""
    return (*((FOUND,) if stage.scan else ()), *stage.checks)


def metadata_of(made: Materialized) -> dict[str, Any]:
    """What Dagster shows of an asset partition that was made."""
    return {
        **_for_people(made.metadata),
        "reused": dg.MetadataValue.bool(made.found),
        "stage_seconds": dg.MetadataValue.float(made.seconds),
        "settings": dg.MetadataValue.json(dict(made.head.settings)),
    }


def _result(stage: Stage, made: Materialized) -> dg.MaterializeResult:
    blocking = {check.name for check in stage.checks if check.blocking}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(made.head.version),
        check_results=[
            *([dg.AssetCheckResult(passed=True, check_name=FOUND.name)] if stage.scan else []),
            *(
                dg.AssetCheckResult(
                    passed=result.passed,
                    check_name=result.check,
                    severity=dg.AssetCheckSeverity.ERROR if result.check in blocking else dg.AssetCheckSeverity.WARN,
                    metadata=_for_people(result.metadata),
                )
                for result in made.check_results
            ),
        ],
    )


def _for_people(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values as Dagster metadata; of numbers six digits, for more stand in what they are of."""
    kinds = {
        "md": lambda text: dg.MetadataValue.md(with_thumbnails(text)),
        "path": dg.MetadataValue.path,
        "url": dg.MetadataValue.url,
    }

    def shown(value: Any) -> Any:
        if isinstance(value, dict) and len(value) == 1 and (kind := next(iter(value))) in kinds:
            return kinds[kind](value[kind])
        return float(f"{value:.6g}") if isinstance(value, float) else value

    return {name: shown(value) for name, value in metadata.items()}
