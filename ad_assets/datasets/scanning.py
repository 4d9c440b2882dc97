"""Opening files: each image and mask of a category is hashed, decoded and described once, and known ever after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ad_assets.datasets.appearance import appearance_of
from ad_assets.datasets.base import Candidate, FileStamp, Problem, ProgressReport
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.identity import content_id
from ad_assets.datasets.images import UPRIGHT, ImageError
from ad_assets.datasets.listing import unreadable
from ad_assets.datasets.truncation import gap_in
from ad_assets.store.retry import StorageError

# Decoding is half waiting (disk, object store) and half work outside the interpreter's lock.
THREADS = 8
REPORT_EVERY = 100


@dataclass(frozen=True)
class KnownFile:
    """What a scan learnt of one sound file; plain JSON values.

    Args:
        size: bytes.
        stamp: the listing's change stamp.
        sha256: of the bytes, hexadecimal.
        width: pixels, as the file is turned.
        height: as width.
        mode: PIL mode.
        rule: what of the decoding rules the other values follow from.
        area: of a mask, how many pixels are anomalous; None for an image.
        value: of a mask, its strongest pixel, by which some datasets tell the kind of a region.
        ignored: of a mask, how many pixels no metric counts.
        largest: of an image of more than 8 bits, its largest value.
        told_depth: of such an image, the bits that its tags tell; 0 where they tell nothing.
        orientation: the EXIF orientation in the file, whether or not it is followed; 1 is upright.
        frames: pages or frames of the file.
        gap: part of the file that holds nothing but one byte, as copies that were cut off leave it; 0 for sound files.
        brightness: of an image, where asked for: as `Appearance` has it.
        thumbnail: as brightness.
        look_depth: bits that an image of more than 8 was scaled by for its looks.
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


@dataclass(frozen=True)
class Scan:
    """How the files of a category are opened.

    Args:
        files: where they lie.
        listing: path -> stamp.
        decoding: the rules of the dataset.
        report: called as ``report(what, done, total)`` from time to time.
        looks: take a glance at every image too.
    """

    files: ImageFiles
    listing: Mapping[str, FileStamp]
    decoding: Decoding
    report: ProgressReport
    looks: bool = False

    def run(
        self, candidates: Sequence[Candidate], known: Mapping[str, KnownFile]
    ) -> tuple[dict[str, KnownFile], list[Problem]]:
        """All files of some candidates, and what is wrong with some of them.

        Args:
            candidates: the images, which name their masks.
            known: files of an earlier scan; those that have not changed are not opened.
        """
        is_mask = {candidate.path: False for candidate in candidates}
        is_mask |= {mask: True for candidate in candidates for mask in candidate.masks}
        scanned = {path: known[path] for path, mask in is_mask.items() if self._unchanged(path, known.get(path), mask)}
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

    def _unchanged(self, path: str, known: KnownFile | None, mask: bool) -> bool:
        # A file system without stamps tells nothing of a change, so its files are read each time.
        stamp = self.listing[path]
        if known is None or not stamp.stamp or (known.size, known.stamp) != (stamp.size, stamp.stamp):
            return False
        if known.rule != self._rule(mask=mask) or (known.area is not None) != mask:
            return False
        if mask or not self.looks:
            return True
        wanted = self.decoding.bit_depth
        if known.largest is None or wanted is None or known.largest >> wanted:
            return bool(known.thumbnail)
        return known.look_depth == wanted

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
            raise  # not the image's fault: no index without it
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
        glance = appearance_of(read.rgb) if self.looks else None
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
            brightness=glance.brightness if glance else None,
            thumbnail=glance.thumbnail if glance else None,
            look_depth=read.depth if glance else None,
        )

    def _of_any(self, path: str, data: bytes) -> dict[str, Any]:
        stamp = self.listing[path]
        return {"size": stamp.size, "stamp": stamp.stamp, "sha256": content_id(data), "gap": gap_in(data)}
