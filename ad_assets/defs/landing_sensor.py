"""One sensor a production dataset: it notices images that land, change or go, and starts one run a category.

A tick lists the folder once, whatever the number of categories, and compares fingerprints of names and stamps with
those in its cursor. It waits until an upload rests, though not longer than `longest_wait_seconds` where images go on
arriving; it never asks for the same state of a folder twice, sees to it that a run which failed is tried again, and
says of every category that it passes over why. The run lists the folder itself; what is still on its way then is left
for the next.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial

import dagster as dg

from ad_assets.collector import rare_collection
from ad_assets.config.benchmark import Benchmark, Dataset, Production, fingerprint
from ad_assets.config.faults import ConfigError
from ad_assets.datasets import DatasetError, FileStamp, ImageFiles
from ad_assets.datasets.listing import is_within
from ad_assets.defs.conditions import Window, sensor_status
from ad_assets.defs.dagster_internals import RUN_KEY_TAG
from ad_assets.graph.stages.image_index import read_stamps, stamps_of
from ad_assets.production.arrivals import Arrivals, Watched
from ad_assets.production.review_decisions import decision_stamp, reviewed_categories
from ad_assets.production.store_identity import check_store
from ad_assets.store.store import ArtifactStore, CorruptArtifactError

MOST_TRIES = 3
SHOWN = 10
UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


@dataclass(frozen=True)
class Seen:
    """What the sensor knows of a category.

    Args:
        files: fingerprint of its files, as last asked for or found in the store.
        run_key: of the run that was asked for and has not been seen to succeed; empty: none.
        tries: how many runs were asked for this fingerprint.
        waiting_since: when files were first seen that may be taken once the upload is over, in seconds since 1970; 0:
            there are none.
    """

    files: str = ""
    run_key: str = ""
    tries: int = 0
    waiting_since: float = 0.0


def landing_sensor(
    benchmark: Benchmark, dataset: Dataset, production: Production, job: dg.UnresolvedAssetJobDefinition
) -> dg.SensorDefinition:
    """The sensor ``<dataset>_images``."""
    window = Window(benchmark.automation)

    @dg.sensor(
        name=f"{dataset.name}_images",
        job=job,
        minimum_interval_seconds=benchmark.automation.every_seconds,
        default_status=sensor_status(benchmark),
        description=f"Notices images that land in {dataset.reader.root}, change or go.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = time.time()
        if not window.is_open(now):
            return dg.SensorResult(skip_reason="the nightly window is closed", cursor=context.cursor)
        watch = Watch(dataset, production, benchmark.store, context.instance, now)
        return watch.look(context.cursor)

    return sensor


class Watch:
    """One look at the folder of a dataset.

    Args:
        dataset: the dataset.
        production: its section of the benchmark file.
        store: where the stamps of indexed files lie.
        instance: knows partitions and runs.
        now: seconds since 1970.
    """

    def __init__(
        self,
        dataset: Dataset,
        production: Production,
        store: ArtifactStore,
        instance: dg.DagsterInstance,
        now: float,
    ) -> None:
        self._dataset = dataset
        self._indexed = cache(partial(read_stamps, store, dataset.name))  # one look sees one state of the store
        self._watched = Watched(dataset, production, store, self._indexed)
        self._patience, self._longest_wait = production.patience_seconds, production.longest_wait_seconds
        self._store = store
        self._instance = instance
        self._now = now
        self._files = ImageFiles(dataset.reader.root)
        self._passed_over: list[str] = []
        self._undecided: dict[str, str] = {}  # category -> why its decisions cannot be told

    @rare_collection()
    def look(self, cursor: str | None) -> dg.SensorResult:
        """What the sensor answers, given its cursor."""
        try:
            check_store(self._dataset, self._store, self._instance)
            return self._look(cursor)
        # Another store, a wrong row of a manifest, a folder that may not be read.
        except (ConfigError, CorruptArtifactError, DatasetError, OSError) as error:
            return dg.SensorResult(skip_reason=f"nothing is changed: {error}", cursor=cursor)

    def _look(self, cursor: str | None) -> dg.SensorResult:
        seen = {name: Seen(**entry) for name, entry in json.loads(cursor or "{}").items()}
        try:
            listing = self._files.listing()
        except ValueError as error:
            # An empty folder, or a share that is not mounted: nothing that is known is forgotten for it.
            return dg.SensorResult(skip_reason=str(error), cursor=cursor)
        arrivals = self._watched.look(listing, self._now)
        stamps = self._stamps(arrivals.resting)
        busy = self._by_category(arrivals.moving, stamps)
        if ahead := sorted(arrivals.ahead.keys() & arrivals.moving.keys()):
            others = f" and {len(ahead) - 1} more" if len(ahead) > 1 else ""
            self._pass_over(f"{ahead[0]}{others}: dated in the future, taken once seen unchanged for a while")
        requests: list[dg.RunRequest] = []
        after: dict[str, Seen] = {}
        for category in sorted(stamps.keys() | busy.keys()):
            if reason := self._waits(category, stamps):
                after |= {category: seen[category]} if category in seen else {}
                self._pass_over(f"{category}: {reason}")
                continue
            entry = seen.get(category) or self._first(category, stamps[category])
            after[category], request = self._decide(category, entry, stamps[category], arrivals, busy.get(category, ()))
            requests += [request] if request else []
        known = set(self._instance.get_dynamic_partitions(self._dataset.name))
        partitions = dg.DynamicPartitionsDefinition(name=self._dataset.name)
        changes: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
        if new := sorted(after.keys() - known):
            changes.append(partitions.build_add_request(new))
        missing = sorted(known - stamps.keys() - busy.keys())
        standing = [name for name in missing if self._dataset.reader.stands(name, listing)]
        for name in standing:
            after |= {name: seen[name]} if name in seen else {}
            self._pass_over(f"{name}: no image of it can be read, its folder is there: it stays as it is")
        if gone := sorted(set(missing) - set(standing)):
            changes.append(partitions.build_delete_request(gone))
        for misfit in self._dataset.reader.misfits(self._beside(listing, stamps.keys() | busy.keys())):
            if misfit.severity == "error":
                self._pass_over(f"left out {misfit}")
        reasons = [
            *self._passed_over[:SHOWN],
            *([f"and {len(self._passed_over) - SHOWN} more"] if len(self._passed_over) > SHOWN else []),
        ]
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else "; ".join(reasons) or f"{len(after)} categories, nothing has changed",
            cursor=json.dumps({name: asdict(entry) for name, entry in after.items()}),
            dynamic_partitions_requests=changes,
        )

    def _waits(self, category: str, stamps: Mapping[str, object]) -> str:
        """Why nothing can be told of a category yet; empty where something can."""
        if category not in stamps:
            return "an upload goes on, all its files changed just now"
        return self._undecided.get(category, "")

    def _decide(
        self,
        category: str,
        entry: Seen,
        stamps: Mapping[str, Sequence[object]],
        arrivals: Arrivals,
        busy: Collection[str],
    ) -> tuple[Seen, dg.RunRequest | None]:
        files = fingerprint(stamps)
        going_on = f"{category}: an upload goes on, {len(busy)} files changed just now"
        if entry.files == files and busy:
            self._pass_over(going_on)
        if entry.files == files and not entry.run_key:
            return replace(entry, waiting_since=0.0), None
        indexed = self._indexed(category)
        if fingerprint(indexed) == files:  # a run may find more at rest than it was asked for
            return Seen(files), None
        if entry.files == files:
            return self._again(category, entry)
        waited = self._now - entry.waiting_since if entry.waiting_since else 0.0
        waiting = replace(entry, waiting_since=entry.waiting_since or self._now)
        run = self._run(entry)
        if run and run.status in UNFINISHED:
            self._pass_over(f"{category}: more images, once its run is over, which is {run.status.value.lower()}")
            return waiting, None
        # What goes on arriving is left for the next run, but an index cannot do without a file that it has.
        longest = self._patience if indexed.keys() & busy else self._longest_wait
        if busy and waited < longest:
            self._pass_over(going_on)
            return waiting, None
        halves = self._watched.incomplete(stamps, arrivals, category, self._now)
        if halves:
            self._pass_over(f"{category}: {halves[0]} is incomplete, waiting for the rest of it")
            files = fingerprint({path: stamp for path, stamp in stamps.items() if path not in halves})
            if waited < self._longest_wait or files == fingerprint(indexed) or indexed.keys() & set(halves):
                return waiting, None
            if files == entry.files:
                return self._again(category, waiting)
        return self._ask(category, files, 1)

    def _run(self, entry: Seen) -> dg.DagsterRun | None:
        """The run that was asked for; None before it starts, and where none was."""
        if not entry.run_key:
            return None
        runs = self._instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: entry.run_key}), limit=1)
        return runs[0] if runs else None

    def _again(self, category: str, entry: Seen) -> tuple[Seen, dg.RunRequest | None]:
        """A run was asked for and its images are not indexed: it goes on, or it is tried again."""
        run = self._run(entry)
        if run is None or run.status in UNFINISHED:
            self._pass_over(f"{category}: its run is {run.status.value.lower() if run else 'about to start'}")
            return entry, None
        if entry.tries >= MOST_TRIES:
            self._pass_over(
                f"{category}: {entry.tries} runs did not index its images, the last is {run.run_id[:8]}; mend the "
                "cause and materialize its image_index, or change a file"
            )
            return entry, None
        return self._ask(category, entry.files, entry.tries + 1)

    def _ask(self, category: str, files: str, tries: int) -> tuple[Seen, dg.RunRequest]:
        # The same state of a folder may come back later: the time keeps its key apart from that of the first.
        run_key = f"{self._dataset.name}:{category}:{files}:{int(self._now)}:{tries}"
        return Seen(files, run_key, tries), dg.RunRequest(run_key=run_key, partition_key=category)

    def _first(self, category: str, stamps: Mapping[str, Sequence[object]]) -> Seen:
        """A category that the cursor does not know: the store may."""
        before = self._indexed(category)
        return Seen(fingerprint(before)) if before and fingerprint(before) == fingerprint(stamps) else Seen()

    def _stamps(self, listing: Mapping[str, FileStamp]) -> dict[str, dict[str, list[object]]]:
        assigned = self._dataset.reader.assign(sorted(listing))
        tables = self._dataset.reader.tables
        stamps = {name: stamps_of(found, listing, tables(name)) for name, found in assigned.items()}
        # People decide seldom: a listing tells on which categories they ever did.
        decided = reviewed_categories(self._store, self._dataset.name)
        for name in stamps:
            if name in decided:
                try:
                    stamps[name] |= decision_stamp(self._store, self._dataset.name, name)
                except CorruptArtifactError as error:
                    self._undecided[name] = str(error)
        return stamps

    def _by_category(self, paths: Collection[str], categories: Iterable[str]) -> dict[str, list[str]]:
        """The images among some files, and the regions of interest, by category."""
        reader = self._dataset.reader
        found = {category: [each.path for each in own] for category, own in reader.assign(sorted(paths)).items()}
        for category in categories:
            region = reader.region_path(category)
            if region is not None and region in paths:
                found.setdefault(category, []).append(region)
        return found

    def _beside(self, listing: Mapping[str, FileStamp], categories: Collection[str]) -> list[str]:
        """The files of a listing that lie outside the folders of some categories, where their layout tells these."""
        parts = self._dataset.reader.parts_of(categories)
        if not parts:
            return sorted(listing)
        # Most of a million paths are told by the first of their folders.
        return sorted(path for path in listing if path.partition("/")[0] not in parts and not is_within(path, parts))

    def _pass_over(self, reason: str) -> None:
        self._passed_over.append(reason)
