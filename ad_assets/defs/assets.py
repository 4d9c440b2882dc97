"""The Dagster asset of a stage. No postponed annotations here: Dagster reads them when the asset is defined."""

from typing import Any

import dagster as dg

from ad_assets.defs.attempts import REPEATS, mends_itself
from ad_assets.defs.building import materialize
from ad_assets.defs.cores import runs_at_once
from ad_assets.defs.partitions import partitions_of
from ad_assets.defs.stages import FORCE_TAG, VERIFY_TAG, Stage
from resources.compute import Compute
from resources.store import ArtifactStore


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
            return materialize(
                stage, partition, store, compute, context.log, force=force, verify=verify, again=repeats > 0
            )
        except Exception as error:
            if not mends_itself(error):
                raise
            # Not the asset's retry policy, by which Dagster repeats whatever fails, a wrong setting or a bug too, and a
            # step that was interrupted with Ctrl-C.
            raise dg.RetryRequested(REPEATS.max_retries, REPEATS.calculate_delay(repeats + 1)) from error

    return body
