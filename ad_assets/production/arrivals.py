"""Which files of a watched folder count at a moment: those that are not on their way, by clocks that may be wrong.

An upload is over when its files have not changed for a while, so their times are compared with a clock. Neither need be
right. A time in the future says nothing: what the file system says of the file's arrival is taken in its place, and
where that lies in the future too, the time when the file was first seen as it is now. And a file that was indexed as it
is now is at rest, whatever any clock says.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ad_assets.config.benchmark import Dataset, Production
from ad_assets.datasets.base import FileStamp, Problem
from ad_assets.datasets.files import ImageFiles
from ad_assets.store.records import recall, write_record
from ad_assets.store.store import ArtifactStore

Stamps = Callable[[str], Mapping[str, Sequence[object]]]


@dataclass(frozen=True)
class Arrivals:
    """The files of a listing at one moment.

    Args:
        resting: path -> stamp of those that are not being written. Changes in the future stand at another time.
        moving: path -> stamp of the others.
        ahead: paths of files whose own time lies in the future, at rest or not.
    """

    resting: Mapping[str, FileStamp]
    moving: Mapping[str, FileStamp]
    ahead: Mapping[str, FileStamp]

    def warnings(self) -> list[Problem]:
        """A warning for every file that is dated in the future."""
        return [Problem(path, _warning(stamp), "warning") for path, stamp in sorted(self.ahead.items())]


class Watched:
    """The folder of a production dataset.

    Args:
        dataset: the dataset.
        production: its section of the benchmark file.
        store: remembers files of the future.
        stamps: category -> path -> (size, stamp) of the files that it was last indexed from.
    """

    def __init__(self, dataset: Dataset, production: Production, store: ArtifactStore, stamps: Stamps) -> None:
        self._dataset, self._store, self._stamps = dataset, store, stamps
        self._settle_seconds, self._patience_seconds = production.settle_seconds, production.patience_seconds
        self._files = ImageFiles(dataset.reader.root)

    def look(self, listing: Mapping[str, FileStamp], now: float) -> Arrivals:
        """Tell files at rest from files on their way; opens none.

        Args:
            listing: path -> stamp of all files of the folder.
            now: seconds since 1970.
        """
        ahead = {path: stamp for path, stamp in listing.items() if stamp.changed is not None and stamp.changed > now}
        believed = {**listing, **self._first_seen(ahead, now)} if ahead else listing
        resting = {
            path: stamp
            for path, stamp in believed.items()
            if stamp.changed is None or now - stamp.changed >= self._settle_seconds
        }
        if len(resting) < len(believed):
            indexed = self._indexed([path for path in believed if path not in resting], listing)
            resting = {path: stamp for path, stamp in believed.items() if path in resting or path in indexed}
        moving = {path: stamp for path, stamp in believed.items() if path not in resting}
        return Arrivals(resting, moving, ahead)

    def incomplete(self, paths: Iterable[str], arrivals: Arrivals, category: str, now: float) -> list[str]:
        """Those of some files at rest that may be halves of uploads which go on; only new and changed ones are read."""
        indexed = self._stamps(category)
        young = {
            path: stamp
            for path, stamp in ((path, arrivals.resting[path]) for path in paths if path in arrivals.resting)
            if tuple(indexed.get(path, ())) != (stamp.size, stamp.stamp)
            and (stamp.changed is None or now - stamp.changed < self._patience_seconds)
        }
        return [path for path, stamp in young.items() if not self._files.is_whole(path, stamp.size)]

    def _indexed(self, paths: Sequence[str], listing: Mapping[str, FileStamp]) -> set[str]:
        """Those of some files that lie in an index as they are now."""
        known: dict[str, Sequence[object]] = {}
        for category in self._dataset.reader.assign(sorted(paths)):
            known |= self._stamps(category)
        return {path for path in paths if tuple(known.get(path, ())) == (listing[path].size, listing[path].stamp)}

    def _first_seen(self, ahead: Mapping[str, FileStamp], now: float) -> dict[str, FileStamp]:
        """The files with a time that can be believed."""
        place = f"arrivals/{self._dataset.name}.json"
        before = recall(self._store, place) or {}
        believed, after = {}, {}
        for path, stamp in ahead.items():
            since = stamp.arrived
            if since is None or since > now:
                size, content, first = before.get(path, (0, "", now))
                since = min(first, now) if (size, content) == (stamp.size, stamp.stamp) else now
                after[path] = [stamp.size, stamp.stamp, since]
            believed[path] = replace(stamp, changed=since)
        if after != before:
            write_record(self._store, place, after)
        return believed


def _warning(stamp: FileStamp) -> str:
    when = datetime.datetime.fromtimestamp(stamp.changed or 0.0, datetime.UTC)
    return f"dated {when:%Y-%m-%d %H:%M} UTC, in the future when it was indexed: see to the clock of who writes it"
