"""VisA: Zou, Jeong, Pemula, Zhang, Dabeer, "SPot-the-Difference", ECCV 2022: 9621 normal, 1200 anomalous images.

Split by the release's one-class list, ``split_csv/1cls.csv``: 8659 training and 2162 test images. Mask values are small
numbers, one for each kind of defect. A tree converted to the layout of MVTec AD is read by ``folder``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from ad_assets.datasets.base import Candidate, DatasetError, Problem, register_reader
from ad_assets.datasets.names import is_image
from ad_assets.datasets.readers.manifest import Manifest, assigned, folders_of, manifest_problems, read_manifest
from ad_assets.datasets.readers.published import ImageCounts, Published

SPLIT = "split_csv/1cls.csv"
_RENAMED = {"category": "object", "image_path": "image", "mask_path": "mask"}


@register_reader
class VisaReader(Published):
    """Reader of the release as it unpacks."""

    name: ClassVar[str] = "visa"
    version: ClassVar[int] = 1
    origin: ClassVar[str] = "https://github.com/amazon-science/spot-diff (CC BY 4.0)"
    layout: ClassVar[str] = """\
split_csv/1cls.csv
<object>/Data/Images/{Normal,Anomaly}/NNN.JPG
<object>/Data/Masks/Anomaly/NNN.png"""
    counts: ClassVar[Mapping[str, ImageCounts]] = {
        "candle": ImageCounts(900, 100, 100),
        "capsules": ImageCounts(542, 60, 100),
        "cashew": ImageCounts(450, 50, 100),
        "chewinggum": ImageCounts(453, 50, 100),
        "fryum": ImageCounts(450, 50, 100),
        "macaroni1": ImageCounts(900, 100, 100),
        "macaroni2": ImageCounts(900, 100, 100),
        "pcb1": ImageCounts(904, 100, 100),
        "pcb2": ImageCounts(901, 100, 100),
        "pcb3": ImageCounts(905, 101, 100),
        "pcb4": ImageCounts(904, 101, 100),
        "pipe_fryum": ImageCounts(450, 50, 100),
    }

    def parts_of(self, categories: Collection[str]) -> set[str] | None:
        try:
            named = folders_of(self._manifest(), categories)
        except DatasetError:  # `assign` says what is wrong
            return None
        return None if named is None else {*categories, *named}

    def tables(self, category: str) -> tuple[str, ...]:
        del category
        return (SPLIT,)

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        if SPLIT not in paths:
            message = (
                "is missing: the release has it beside the folders of the objects; a tree converted to the layout of "
                "MVTec AD is read by reader: folder"
            )
            raise DatasetError(f"visa dataset at {self.root!r}", [Problem(SPLIT, message)])
        by_category = assigned(self._manifest().entries, paths)
        return {category: by_category[category] for category in self.counts if category in by_category}

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        entries = self._manifest().by_category.get(category, ())
        named = {path for entry in entries for path in (entry.candidate.path, *entry.candidate.masks)}
        strangers = {
            f"{category}/Data/Images/": f"not named in {SPLIT}: remove it",
            f"{category}/Data/Masks/": f"mask without an image: {SPLIT} does not name it; remove it",
        }
        return [
            *manifest_problems(entries, paths, masks_required=True),
            *(
                Problem(path, message)
                for path in paths
                for folder, message in strangers.items()
                if path.startswith(folder) and is_image(path) and path not in named
            ),
            *self._count_problems(category, candidates),
        ]

    def _manifest(self) -> Manifest:
        return read_manifest(self.root, SPLIT, own_name="", renamed=_RENAMED)
