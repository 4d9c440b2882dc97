"""The Dagster asset of a stage. No postponed annotations here: Dagster reads them when the asset is defined."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from ad_assets.defs.cores import runs_at_once
from ad_assets.defs.partitions import partitions_of
from ad_assets.defs.tags import FORCE_TAG, VERIFY_TAG
from ad_assets.graph.build import Materialized, materialize
from ad_assets.graph.build_attempts import mends_itself
from ad_assets.graph.stage import Stage, StageError
from ad_assets.settings.compute import Compute
from ad_assets.store.store import ArtifactStore

REPEATS = dg.RetryPolicy(
    max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)  # seconds: 10, 30


def to_asset(
    stage: Stage, condition: dg.AutomationCondition[Any] | None = None, *, pooled: bool = True
) -> dg.AssetsDefinition:
    """The Dagster asset of a stage.

    Args:
        stage: the stage.
        condition: when it materializes by itself; None: never.
        pooled: whether it takes a slot of its pool.
    """
    key = dg.AssetKey(list(stage.key))
    partitions = partitions_of(stage)

    @dg.asset(
        key=key,
        deps=[dg.AssetKey(list(dep.key)) for dep in stage.deps],
        partitions_def=partitions,
        code_version=stage.code_version,
        group_name=stage.group,
        kinds=set(stage.kinds),
        description=stage.description,
        owners=["team:anomaly-detection"],
        automation_condition=condition,
        pool=stage.pool if pooled else None,
        check_specs=[
            dg.AssetCheckSpec(
                check.name,
                asset=key,
                description=check.description,
                blocking=check.blocking,
                partitions_def=partitions,
            )
            for check in stage.checks
        ],
    )
    def body(
        context: dg.AssetExecutionContext, store: dg.ResourceParam[ArtifactStore], compute: dg.ResourceParam[Compute]
    ) -> dg.MaterializeResult:
        compute.apply_threads(runs_at_once(context.instance, context.run))
        partition = context.partition_key if stage.partitions is not None else None
        force, verify = (context.run.tags.get(tag) == "true" for tag in (FORCE_TAG, VERIFY_TAG))
        repeats = context.retry_number
        try:
            if stage.admit:
                stage.admit(store, context.instance)
            return _result(
                stage,
                materialize(
                    stage, partition, store, compute, context.log, force=force, verify=verify, again=repeats > 0
                ),
            )
        except StageError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        except Exception as error:
            if not mends_itself(error):
                raise
            # Not the asset's retry policy, by which Dagster repeats whatever fails, a wrong setting or a bug too, and a
            # step that was interrupted with Ctrl-C.
            raise dg.RetryRequested(REPEATS.max_retries, REPEATS.calculate_delay(repeats + 1)) from error

    return body


def _result(stage: Stage, made: Materialized) -> dg.MaterializeResult:
    blocking = {check.name for check in stage.checks if check.blocking}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(made.head.version),
        metadata={
            **_for_people(made.metadata),
            "reused": dg.MetadataValue.bool(made.found),
            "stage_seconds": dg.MetadataValue.float(made.seconds),
        },
        check_results=[
            dg.AssetCheckResult(
                passed=result.passed,
                check_name=result.check,
                severity=dg.AssetCheckSeverity.ERROR if result.check in blocking else dg.AssetCheckSeverity.WARN,
                metadata=_for_people(result.metadata),
            )
            for result in made.check_results
        ],
    )


def _for_people(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values as Dagster metadata."""
    kinds = {"md": dg.MetadataValue.md, "path": dg.MetadataValue.path}

    def shown(value: Any) -> Any:
        if isinstance(value, dict) and len(value) == 1 and (kind := next(iter(value))) in kinds:
            return kinds[kind](value[kind])
        return value

    return {name: shown(value) for name, value in metadata.items()}
