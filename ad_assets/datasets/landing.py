"""Images that land in a folder while it is read: which files are whole, and which are still on their way.

A file that changed a moment ago is being written. One that rests but does not end as its kind of image ends is the
first half of an upload that stalled: it gets more time before it is taken for broken. Nobody opens either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ad_assets.datasets.base import FileStamp
from ad_assets.datasets.files import ImageFiles


@dataclass(frozen=True)
class Landing:
    """How long uploads take.

    Args:
        settle_seconds: a file that rests for so long is not being written.
        patience_seconds: a file that stays incomplete for longer is broken.
    """

    settle_seconds: float
    patience_seconds: float

    def resting(self, listing: Mapping[str, FileStamp], now: float) -> dict[str, FileStamp]:
        """The files that are not being written, as far as their change times tell.

        Args:
            listing: path -> stamp.
            now: seconds since 1970.
        """
        return {
            path: stamp
            for path, stamp in listing.items()
            if stamp.changed is None or now - stamp.changed >= self.settle_seconds
        }

    def incomplete(
        self, files: ImageFiles, listing: Mapping[str, FileStamp], known: Mapping[str, Sequence[object]], now: float
    ) -> list[str]:
        """The files that may still become whole, by their ends; only those are read that are new or changed.

        Args:
            files: where they lie.
            listing: path -> stamp of the files to look at.
            known: path -> (size, stamp) of files that were read whole before.
            now: seconds since 1970.
        """
        young = [
            path
            for path, stamp in listing.items()
            if tuple(known.get(path, ())) != (stamp.size, stamp.stamp)
            and (stamp.changed is None or now - stamp.changed < self.patience_seconds)
        ]
        return [path for path in young if not files.is_whole(path, listing[path].size)]
