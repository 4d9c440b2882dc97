"""Magnetic Tile Defects: Huang, Qiu, Yuan, "Surface defect saliency of magnetic tile", Visual Computer 2018.

The public release holds 952 defect-free and 392 defective grey images (115 blowhole, 85 break, 57 crack, 32 fray, 103
uneven) as ``MT_<Type>/Imgs/NAME.jpg`` with the mask ``NAME.png`` beside it, and no split.

`split: random` is the papers' protocol: `train_fraction` of the free images are trained on (floor: 761 of 952), the
others (191) and all defects are tested. Names are ranked by sha256 of seed and name, so the split depends neither on
the order of the listing nor on a random generator. **It leaks**: the names begin with one of about six exposures (exp1,
exp2, ...), apparently of the same tiles under unrelated numbers, so most test tiles were trained on under another
light, and no name shows which.

`split: exposure` trains on the free images of some exposures and tests on all images, free and defective, of
`test_exposures`. Every light at test is new but the tiles are not, so the leak is smaller and not closed. Its numbers
are never compared with the published ones.

Four masks of ``Uneven`` are empty; those images stay anomalous.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from ad_assets.datasets.base import Candidate, Problem, Reader, register_reader
from ad_assets.datasets.decoding import PUBLISHED, Decoding
from ad_assets.datasets.names import NOMINAL
from ad_assets.datasets.readers.published import count_problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CATEGORY = "magnetic_tile"
COUNTS = {"Free": 952, "Blowhole": 115, "Break": 85, "Crack": 57, "Fray": 32, "Uneven": 103}

_FREE = "Free"
_PATH = re.compile(r"MT_(?P<kind>[A-Za-z]+)/Imgs/(?P<stem>[^/]+)\.(?P<suffix>jpg|png)")
_EXPOSURE = re.compile(r"exp(\d+)_")


class _File(NamedTuple):
    kind: str
    stem: str
    suffix: str
    path: str


@register_reader
class MtdReader(Reader):
    """Reader of the public release as it unpacks."""

    name: ClassVar[str] = "mtd"
    version: ClassVar[int] = 1
    paper_dataset: ClassVar[str | None] = "MTD"
    decodes: ClassVar[Decoding] = PUBLISHED  # drawn masks have grey edges: above 127 is anomalous
    origin: ClassVar[str] = (
        "https://github.com/abin24/Magnetic-tile-defect-datasets. (research use; cite Huang et al. 2018)"
    )
    layout: ClassVar[str] = "MT_{Free,Blowhole,Break,Crack,Fray,Uneven}/Imgs/NAME.{jpg,png}   (the .png is the mask)"

    split: Literal["random", "exposure"] = Field("random", description="how free images are split")
    train_fraction: float = Field(0.8, gt=0, lt=1, description="random: share of the free images that is trained on")
    seed: int = Field(0, ge=0, description="random: another seed gives another split")
    test_exposures: tuple[int, ...] = Field(
        (4, 5, 6), min_length=1, description="exposure: the numbers after exp whose images are tested"
    )
    check_counts: bool = Field(True, description="compare the numbers of images with the published ones")

    @field_validator("test_exposures")
    @classmethod
    def _sorted_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))

    @property
    def compared_with(self) -> str | None:
        """MTD for random splits, as in the papers; results of another split are not compared with them."""
        return self.paper_dataset if self.split == "random" else None

    def index_config(self) -> dict[str, Any]:
        unread = {"random": ("test_exposures",), "exposure": ("train_fraction", "seed")}[self.split]
        return {key: value for key, value in super().index_config().items() if key not in unread}

    def categories(self) -> list[str]:
        """The one category, `CATEGORY`."""
        return [CATEGORY]

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        files = _files(paths)
        masks = {(file.kind, file.stem): file.path for file in files if file.suffix == "png"}
        images = [file for file in files if file.suffix == "jpg"]
        train, test = self._divide(images)
        candidates = [Candidate(file.path, "train", 0, NOMINAL) for file in train]
        for file in test:
            if file.kind == _FREE:
                candidates.append(Candidate(file.path, "test", 0, NOMINAL))
            else:
                mask = masks.get((file.kind, file.stem))
                candidates.append(Candidate(file.path, "test", 1, file.kind.lower(), (mask,) if mask else ()))
        return {CATEGORY: candidates} if candidates else {}

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        del category
        files = _files(paths)
        images = {(file.kind, file.stem) for file in files if file.suffix == "jpg"}
        problems = [
            Problem(file.path, f"mask without the image {file.stem}.jpg beside it: remove it")
            for file in files
            if file.suffix == "png" and (file.kind, file.stem) not in images
        ]
        problems += [
            Problem(candidate.path, "has no mask: expected the .png of the same name beside it")
            for candidate in candidates
            if candidate.label == 1 and not candidate.masks
        ]
        if self.split == "exposure":
            problems += [
                Problem(file.path, "its name does not begin with exp<number>_: no exposure to split by")
                for file in files
                if file.suffix == "jpg" and _exposure(file) is None
            ]
        if self.check_counts:
            counts = Counter(kind for kind, _ in images)
            problems += [
                count_problem(f"MT_{kind}/Imgs", kind.lower(), expected, counts[kind])
                for kind, expected in COUNTS.items()
                if counts[kind] != expected
            ]
        return problems

    def _divide(self, images: Sequence[_File]) -> tuple[list[_File], list[_File]]:
        free = [file for file in images if file.kind == _FREE]
        defective = [file for file in images if file.kind != _FREE]
        if self.split == "exposure":
            train = [file for file in free if _exposure(file) not in (None, *self.test_exposures)]
            return train, [file for file in images if _exposure(file) in self.test_exposures]
        # Decimal of the number as written: 0.29 of 100 is 29, where binary floats floor to 28.
        size = int(Decimal(str(self.train_fraction)) * len(free))
        ranked = sorted(free, key=self._rank)
        return ranked[:size], [*ranked[size:], *defective]

    def _rank(self, file: _File) -> str:
        return hashlib.sha256(f"{self.seed}:{file.stem}".encode()).hexdigest()


def _files(paths: Iterable[str]) -> list[_File]:
    # Folders of other kinds are not part of the release.
    matches = (_PATH.fullmatch(path) for path in paths)
    return sorted(
        _File(match["kind"], match["stem"], match["suffix"], match.string)
        for match in matches
        if match and match["kind"] in COUNTS
    )


def _exposure(file: _File) -> int | None:
    match = _EXPOSURE.match(file.stem)
    return int(match[1]) if match else None
