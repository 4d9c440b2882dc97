"""The Dagster asset of a stage. No postponed annotations here: Dagster reads them when the asset is defined."""

from typing import Any

import dagster as dg

from ad_assets.defs.stages import FORCE_TAG, Stage, materialize
from resources.compute import Compute
from resources.store import ArtifactStore


def to_asset(stage: Stage) -> dg.AssetsDefinition:
    """The Dagster asset of a stage."""

    @dg.asset(
        key=dg.AssetKey(list(stage.key)),
        deps=[dg.AssetKey(list(dep.key)) for dep in stage.deps],
        partitions_def=dg.StaticPartitionsDefinition(list(stage.partitions)) if stage.partitions is not None else None,
        code_version=stage.code_version,
        group_name=stage.group,
        kinds=set(stage.kinds),
        description=stage.description,
        owners=["team:anomaly-detection"],
    )
    def body(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute) -> dg.MaterializeResult[Any]:
        compute.apply_threads()
        partition = context.partition_key if stage.partitions is not None else None
        force = context.run.tags.get(FORCE_TAG) == "true"
        return materialize(stage, partition, store, compute, context.log, force=force)

    return body
