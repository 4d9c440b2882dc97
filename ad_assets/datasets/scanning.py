"""Hashes, decodes and describes each image and mask of a category; unchanged files are not opened again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

from ad_assets.datasets.base import Candidate, FileStamp, Problem, ProgressReport
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.listing import unreadable
from ad_assets.datasets.truncation import gap_in
from ad_assets.store.retry import StorageError
from ad_assets_runtime.appearance import appearance_of
from ad_assets_runtime.identity import content_id
from ad_assets_runtime.images import UPRIGHT, ImageError

# Decoding is half waiting (disk, object store) and half work outside the interpreter's lock.
THREADS = 8
REPORT_EVERY = 100


class KnownFile(NamedTuple):
    """What a scan found out about one readable file; plain values, kept in the store.

    Args:
        size: bytes.
        stamp: the listing's change stamp.
        sha256: of the bytes, hexadecimal.
        width: pixels, after the EXIF orientation is applied.
        height: as width.
        mode: PIL mode.
        rule: the decoding rules that the other values depend on.
        area: for a mask, the number of anomalous pixels; None for an image.
        value: for a mask, its largest value, which in some datasets is the kind of defect.
        ignored: for a mask, the number of pixels that no metric counts.
        largest: for an image of more than 8 bits, its largest value.
        told_depth: for such an image, the bits declared by its tags; 0 where they declare none.
        orientation: EXIF orientation of the file, whether or not it is applied; 1 is upright.
        frames: pages or frames of the file.
        gap: share of the file taken by one repeated byte, as interrupted copies leave it; 0 for complete files.
        brightness: of an image, where requested; see `Appearance`.
        thumbnail: as brightness.
        look_depth: bit depth that brightness and thumbnail were computed at, for an image of more than 8 bits.
    """

    size: int
    stamp: str
    sha256: str
    width: int
    height: int
    mode: str
    rule: str = ""
    area: int | None = None
    value: int | None = None
    ignored: int = 0
    largest: int | None = None
    told_depth: int = 0
    orientation: int = UPRIGHT
    frames: int = 1
    gap: float = 0.0
    brightness: float | None = None
    thumbnail: str | None = None
    look_depth: int | None = None

    @classmethod
    def column_types(cls) -> list[type]:
        """int, float or str, of each value in order, whether or not it may be None."""
        of = get_type_hints(cls)
        return [
            next(kind for kind in (get_args(of[name]) or (of[name],)) if kind is not NoneType) for name in cls._fields
        ]


@dataclass(frozen=True)
class Scan:
    """How the files of a category are read.

    Args:
        files: the dataset's folder.
        listing: path -> stamp.
        decoding: the rules of the dataset.
        report: called as ``report(what, done, total)`` from time to time.
        appearance: also compute brightness and thumbnail of every image.
    """

    files: ImageFiles
    listing: Mapping[str, FileStamp]
    decoding: Decoding
    report: ProgressReport
    appearance: bool = False

    def run(
        self, candidates: Sequence[Candidate], known_files: Mapping[str, KnownFile]
    ) -> tuple[dict[str, KnownFile], list[Problem]]:
        """Read the files of candidates; returns those that are readable, and the problems of the others.

        Args:
            candidates: the images, which name their masks.
            known_files: files of an earlier scan; those that have not changed are not opened.
        """
        is_mask = {candidate.path: False for candidate in candidates}
        is_mask |= {mask: True for candidate in candidates for mask in candidate.masks}
        scanned = {
            path: known_files[path]
            for path, mask in is_mask.items()
            if self._unchanged(path, known_files.get(path), mask)
        }
        unread = sorted(set(is_mask) - set(scanned))
        problems = []
        with ThreadPoolExecutor(THREADS) as pool:
            results = pool.map(self._inspect, unread, [is_mask[path] for path in unread])
            for done, (path, result) in enumerate(zip(unread, results, strict=True), start=1):
                if isinstance(result, Problem):
                    problems.append(result)
                else:
                    scanned[path] = result
                if done % REPORT_EVERY == 0 or done == len(unread):
                    self.report("images and masks read", done, len(unread))
        return scanned, problems

    def _unchanged(self, path: str, earlier: KnownFile | None, mask: bool) -> bool:
        # Without stamps a change cannot be detected, so files are read each time.
        stamp = self.listing[path]
        if earlier is None or not stamp.stamp or (earlier.size, earlier.stamp) != (stamp.size, stamp.stamp):
            return False
        if earlier.rule != self._rule(mask=mask) or (earlier.area is not None) != mask:
            return False
        if mask or not self.appearance:
            return True
        wanted = self.decoding.bit_depth
        if earlier.largest is None or wanted is None or earlier.largest >> wanted:
            return bool(earlier.thumbnail)
        return earlier.look_depth == wanted

    def _rule(self, *, mask: bool) -> str:
        return f"turn={self.decoding.turn} {self.decoding.masks if mask else ''}"

    def _inspect(self, path: str, mask: bool) -> KnownFile | Problem:
        if wrong := unreadable(path, self.listing[path]):
            return Problem(path, wrong)
        try:
            data = self.files.read(path)
            return self._mask(path, data) if mask else self._image(path, data)
        except ImageError as error:
            return Problem(path, error.message)
        except StorageError:
            raise  # the storage failed, not the file: an index without it would be wrong
        except OSError as error:
            return Problem(path, f"cannot be read ({error}): check that it still exists and its permissions")

    def _mask(self, path: str, data: bytes) -> KnownFile:
        read = self.decoding.mask(data, path)
        height, width = read.anomalous.shape
        return KnownFile(
            **self._of_any(path, data),
            width=width,
            height=height,
            mode=read.mode,
            rule=self._rule(mask=True),
            area=int(read.anomalous.sum()),
            value=read.strongest,
            ignored=0 if read.ignored is None else int(read.ignored.sum()),
            orientation=read.how,
            frames=read.frames,
        )

    def _image(self, path: str, data: bytes) -> KnownFile:
        read = self.decoding.inspect(data, path)
        height, width = read.rgb.shape[:2]
        appearance = appearance_of(read.rgb) if self.appearance else None
        return KnownFile(
            **self._of_any(path, data),
            width=width,
            height=height,
            mode=read.mode,
            rule=self._rule(mask=False),
            largest=read.largest,
            told_depth=read.told_depth,
            orientation=read.how,
            frames=read.frames,
            brightness=appearance.brightness if appearance else None,
            thumbnail=appearance.thumbnail if appearance else None,
            look_depth=read.depth if appearance else None,
        )

    def _of_any(self, path: str, data: bytes) -> dict[str, Any]:
        stamp = self.listing[path]
        return {"size": stamp.size, "stamp": stamp.stamp, "sha256": content_id(data), "gap": gap_in(data)}
