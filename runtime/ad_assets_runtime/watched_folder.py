"""A folder of images in, a folder of results and pictures out: each image once, half-written files are waited for.

An image is taken when its size and time have not changed for a while and it decodes. Its result and its picture are
written first, then the image is moved to ``done`` (or to ``failed``) in the folder for results. So what was cut off in
between is only done again, with the same result under the same name.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ad_assets_runtime.bundle import Bundle, Inspected
from ad_assets_runtime.identity import content_id
from ad_assets_runtime.images import IMAGE_SUFFIXES, ImageError
from ad_assets_runtime.pictures import heat_map_png
from ad_assets_runtime.results import result_of
from ad_assets_runtime.root_folder import write_whole

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Seen:
    """What a file was like, and since when it is so (monotonic seconds)."""

    stamp: tuple[int, int, int]
    since: float


class WatchedFolder:
    """Scores what lands in a folder.

    Args:
        images: folder in which images land; those of folders below it count too.
        results: folder for results, of the same file system.
        champion: gives the bundle that scores; raises KeyError where there is none.
        record: called with each image that was scored.
        settle_seconds: a file is complete when it has not changed for so long.
        patience_seconds: one that still does not decode after this is broken.
    """

    def __init__(
        self,
        images: Path,
        results: Path,
        champion: Callable[[], Bundle],
        record: Callable[[Inspected], object],
        *,
        settle_seconds: float = 1.0,
        patience_seconds: float = 60.0,
    ) -> None:
        self._images, self._results, self._champion, self._record = images, results, champion, record
        self._settle, self._patience = settle_seconds, patience_seconds
        self._seen: dict[Path, _Seen] = {}

    def poll(self, stopped: Callable[[], bool] = lambda: False) -> int:
        """Look once; how many images were taken. Once `stopped`, the one under way is finished and no other taken."""
        now, taken, present = time.monotonic(), 0, {}
        for path in sorted(self._images.rglob("*")):
            if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith(".") or self._results in path.parents:
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._seen.get(path)
            present[path] = known if known and known.stamp == stamp else _Seen(stamp, now)
        self._seen = present
        for path, seen in list(present.items()):
            if stopped():
                break
            if now - seen.since >= self._settle:
                taken += self._take(path, time.monotonic() - seen.since)
        return taken

    def _take(self, path: Path, unchanged: float) -> int:
        try:
            bundle = self._champion()
        except KeyError as error:
            _LOG.warning("%s waits: %s", path.name, error.args[0])
            return 0
        try:
            data = path.read_bytes()
        except OSError:
            return 0
        name = f"{path.stem}-{content_id(data)[:12]}"
        try:
            image = bundle.inspect(data, path.relative_to(self._images).as_posix(), {})
        except ImageError as error:
            if unchanged < self._patience:
                return 0
            _LOG.warning("%s", error)
            self._finish(path, name, {"image": path.name, "error": str(error)}, None)
            return 1
        picture = heat_map_png(image.rgb, image.prediction, bundle.colours)
        self._finish(path, name, {"image": path.name, **result_of(image)}, picture)
        self._record(image)
        return 1

    def _finish(self, path: Path, name: str, result: dict[str, object], picture: bytes | None) -> None:
        if picture is not None:
            write_whole(self._results / f"{name}.png", picture)
        write_whole(self._results / f"{name}.json", json.dumps(result, indent=1).encode())
        target = self._results / ("done" if picture is not None else "failed") / f"{name}{path.suffix.lower()}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
        self._seen.pop(path, None)
