"""Dagster's stale marks of many asset partitions, by a few queries an asset.

The rules and the answers are Dagster's own. Only, it looks up every partition by itself, and every edge twice more;
here the last events of all partitions of an asset come in one query each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache

import dagster as dg

# Internal to Dagster: the only interface to stale marks by partition (the public one ignores partitions).
from dagster._core.definitions.data_version import DATA_VERSION_TAG, CachingStaleStatusResolver, DataProvenance
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.loader import LoadingContext

EVENT = dg.DagsterEventType.ASSET_MATERIALIZATION


class StaleMarks(CachingStaleStatusResolver):
    """What the Dagster UI says of asset partitions.

    Args:
        instance: whose records tell what was materialized.
        graph: the assets.
        loading: what Dagster's own record loaders hang on.
        categories: the partitions that will be asked for; None: all.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        graph: dg.AssetGraph,
        loading: LoadingContext,
        categories: Collection[str] | None,
    ) -> None:
        super().__init__(instance, graph, loading)
        self._wanted = categories
        self._ids = cache(self._read_ids)
        self._records = cache(self._read_records)
        self._versions = cache(self._read_versions)

    def _get_latest_data_version_record(self, key: AssetKeyPartitionKey) -> dg.EventLogRecord | None:
        if key.partition_key is None or (self._wanted is not None and key.partition_key not in self._wanted):
            return super()._get_latest_data_version_record(key=key)
        return self._records(key.asset_key).get(key.partition_key)

    def _is_dep_updated(self, provenance: DataProvenance, dep_key: AssetKeyPartitionKey) -> bool:
        read = provenance.input_storage_ids.get(dep_key.asset_key)
        if dep_key.partition_key is None or not read:
            return super()._is_dep_updated(provenance, dep_key)
        if self._ids(dep_key.asset_key).get(dep_key.partition_key, 0) <= read:
            return False
        before, now = self._versions(dep_key.asset_key, read + 1), self._versions(dep_key.asset_key, None)
        return before.get(dep_key.partition_key) != now.get(dep_key.partition_key)

    def _read_ids(self, key: dg.AssetKey) -> Mapping[str, int]:
        """The last materialization of each partition."""
        return self._instance.get_latest_storage_id_by_partition(key, EVENT)

    def _read_records(self, key: dg.AssetKey) -> Mapping[str, dg.EventLogRecord]:
        """The last materialization of each wanted partition, whole."""
        ids = [last for name, last in self._ids(key).items() if self._wanted is None or name in self._wanted]
        if not ids:
            return {}
        wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=ids)
        found = self._instance.fetch_materializations(wanted, limit=len(ids)).records
        return {record.partition_key: record for record in found if record.partition_key is not None}

    def _read_versions(self, key: dg.AssetKey, before: int | None) -> Mapping[str, str | None]:
        """The data version of each partition, now or before some event."""
        tags = self._instance.event_log_storage.get_latest_tags_by_partition(
            key, EVENT, [DATA_VERSION_TAG], before_cursor=before
        )
        return {partition: own.get(DATA_VERSION_TAG) for partition, own in tags.items()}
