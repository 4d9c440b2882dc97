"""Which files of a watched folder are completely uploaded, with clocks that may be wrong.

A file that changed within `settle_seconds` counts as being written. A complete-looking listing may still hold the first
part of a stalled upload: a file that does not end as its format declares gets `patience_seconds` before it counts as
broken. Neither kind is opened.

File times and this machine's clock may both be wrong. For a change time in the future the arrival time of the file
system is used; if that is in the future too, the time when the file was first seen in its present state. A file that
was indexed in its present state, or that feedback wrote, is at rest whatever the clocks say.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ad_assets.config.benchmark import Dataset, Production
from ad_assets.datasets.base import FileStamp, Problem
from ad_assets.datasets.files import ImageFiles
from ad_assets.production.feedback_ledger import written_files
from ad_assets.store.records import recall, write_record
from ad_assets.store.store import ArtifactStore

Stamps = Callable[[str], Mapping[str, Sequence[object]]]


@dataclass(frozen=True)
class Arrivals:
    """The files of a listing, sorted by state of upload.

    Args:
        resting: path -> stamp of files that are not being written; change times in the future are replaced.
        moving: path -> stamp of the others.
        ahead: path -> stamp of files whose change time is in the future, at rest or not.
    """

    resting: Mapping[str, FileStamp]
    moving: Mapping[str, FileStamp]
    ahead: Mapping[str, FileStamp]

    def warnings(self) -> list[Problem]:
        """A warning for every file with a change time in the future."""
        return [Problem(path, _warning(stamp), "warning") for path, stamp in sorted(self.ahead.items())]


class Watched:
    """The folder of a production dataset.

    Args:
        dataset: the dataset.
        production: its section of the benchmark file.
        store: keeps when files with a time in the future were first seen.
        stamps: category -> path -> (size, stamp) of the files that were last indexed.
    """

    def __init__(self, dataset: Dataset, production: Production, store: ArtifactStore, stamps: Stamps) -> None:
        self._dataset, self._store, self._stamps = dataset, store, stamps
        self._settle_seconds, self._patience_seconds = production.settle_seconds, production.patience_seconds
        self._files = ImageFiles(dataset.reader.root)

    def look(self, listing: Mapping[str, FileStamp], now: float, *, part: bool = False) -> Arrivals:
        """Separate files at rest from files being written; opens none.

        Args:
            listing: path -> stamp of all files of the folder.
            now: seconds since 1970.
            part: the listing is that of some categories: what was seen of others is kept.
        """
        ahead = {path: stamp for path, stamp in listing.items() if stamp.changed is not None and stamp.changed > now}
        believed = {**listing, **self._first_seen(ahead, now, part)} if ahead else listing
        resting = {
            path: stamp
            for path, stamp in believed.items()
            if stamp.changed is None or now - stamp.changed >= self._settle_seconds
        }
        if len(resting) < len(believed):
            others = [path for path in believed if path not in resting]
            whole = self._indexed(others, listing) | self._written(others, listing)
            resting = {path: stamp for path, stamp in believed.items() if path in resting or path in whole}
        moving = {path: stamp for path, stamp in believed.items() if path not in resting}
        return Arrivals(resting, moving, ahead)

    def incomplete(self, paths: Iterable[str], arrivals: Arrivals, category: str, now: float) -> list[str]:
        """Those of `paths` that may be parts of stalled uploads; reads only the ends of new and changed files."""
        indexed = self._stamps(category)
        young = {
            path: stamp
            for path, stamp in ((path, arrivals.resting[path]) for path in paths if path in arrivals.resting)
            if tuple(indexed.get(path, ())) != (stamp.size, stamp.stamp)
            and (stamp.changed is None or now - stamp.changed < self._patience_seconds)
        }
        return [path for path, stamp in young.items() if not self._files.is_whole(path, stamp.size)]

    def _indexed(self, paths: Sequence[str], listing: Mapping[str, FileStamp]) -> set[str]:
        """Those of `paths` that were indexed in their present state."""
        indexed: dict[str, Sequence[object]] = {}
        for category in self._dataset.reader.assign(sorted(paths)):
            indexed |= self._stamps(category)
        return {path for path in paths if tuple(indexed.get(path, ())) == (listing[path].size, listing[path].stamp)}

    def _written(self, paths: Sequence[str], listing: Mapping[str, FileStamp]) -> set[str]:
        """Those of `paths` that feedback wrote, which are whole from the start."""
        written: dict[str, int] = {}
        for category in self._dataset.reader.assign(sorted(paths)):
            written |= written_files(self._store, self._dataset.name, category)
        return {path for path in paths if written.get(path) == listing[path].size}

    def _first_seen(self, ahead: Mapping[str, FileStamp], now: float, part: bool) -> dict[str, FileStamp]:
        """The files with change times that are not in the future."""
        path = f"arrivals/{self._dataset.name}.json"
        before = recall(self._store, path) or {}
        believed: dict[str, FileStamp] = {}
        after: dict[str, Any] = dict(before) if part else {}
        for file, stamp in ahead.items():
            since = stamp.arrived
            if since is None or since > now:
                size, content, first = before.get(file, (0, "", now))
                since = min(first, now) if (size, content) == (stamp.size, stamp.stamp) else now
                after[file] = [stamp.size, stamp.stamp, since]
            believed[file] = replace(stamp, changed=since)
        if after != before:
            write_record(self._store, path, after)
        return believed


def _warning(stamp: FileStamp) -> str:
    when = datetime.datetime.fromtimestamp(stamp.changed or 0.0, datetime.UTC)
    return f"dated {when:%Y-%m-%d %H:%M} UTC, in the future when it was indexed: check the clock of the writer"
