"""Any folder in the layout of MVTec AD (Bergmann et al., CVPR 2019), the common currency of the field.

    <root>/<category>/train/good/NAME.png
    <root>/<category>/test/good/NAME.png
    <root>/<category>/test/<defect type>/NAME.png
    <root>/<category>/ground_truth/<defect type>/NAME_mask.png  or  NAME.png

``good``, ``ok`` and ``normal`` name nominal folders. Subfolders below a type are allowed, and repeated under
``ground_truth``. Masks pair by name, never by position. ``test`` and ``ground_truth`` may be missing; other
folders are not read. A root that itself holds ``train`` is one category.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field

from ad_assets.datasets.base import (
    NOMINAL,
    Candidate,
    Problem,
    Reader,
    checked_keys,
    is_image,
    register_reader,
)
from ad_assets.datasets.files import ImageFiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOMINAL_FOLDERS = frozenset({"good", "ok", "normal"})
_PARTS = ("train", "test", "ground_truth")
MVTEC_LAYOUT = """\
<category>/train/good/NAME.png
<category>/test/good/NAME.png
<category>/test/<defect type>/NAME.png
<category>/ground_truth/<defect type>/NAME_mask.png"""


class _Place(NamedTuple):
    category: str
    part: str  # train | test | ground_truth
    defect_type: str  # "" for a file that lies in no type's folder
    name: str  # what pairs an image with its mask: the path below the type, without suffix
    path: str


class MvtecLayout(Reader):
    """What all datasets in the layout of MVTec AD share; subclasses say which categories there are."""

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        places = sorted(self._places(paths))
        masks: dict[tuple[str, str, str], str] = {}
        for place in places:
            if place.part == "ground_truth":
                masks.setdefault((place.category, place.defect_type, place.name), place.path)
        found: dict[str, list[Candidate]] = defaultdict(list)
        for place in places:
            nominal = place.defect_type in NOMINAL_FOLDERS
            if place.part == "train" and nominal:
                found[place.category].append(Candidate(place.path, "train", 0, NOMINAL))
            elif place.part == "test" and nominal:
                found[place.category].append(Candidate(place.path, "test", 0, NOMINAL))
            elif place.part == "test" and place.defect_type:
                mask = masks.get((place.category, place.defect_type, place.name))
                found[place.category].append(
                    Candidate(place.path, "test", 1, place.defect_type, (mask,) if mask else ())
                )
        return dict(found)

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        places = [place for place in self._places(paths) if place.category == category]
        masked_types = {place.defect_type for place in places if place.part == "ground_truth"}
        paired = {mask for candidate in candidates for mask in candidate.masks}
        problems = []
        for place in places:
            nominal = place.defect_type in NOMINAL_FOLDERS
            if place.part == "ground_truth" and not nominal and place.path not in paired:
                image = f"test/{place.defect_type}/{place.name}"
                message = f"mask without an image {image}.*, or a second mask of it: remove it"
                problems.append(Problem(place.path, message))
            elif place.part == "train" and not nominal:
                message = "not used: only train/good (or ok, normal) is; move it there or away"
                problems.append(Problem(place.path, message))
            elif place.part == "test" and not place.defect_type:
                message = "lies in no defect type's folder: move it to test/good or test/<defect type>"
                problems.append(Problem(place.path, message))
        for candidate in candidates:
            if candidate.label == 1 and not candidate.masks and masked_types:
                kind = candidate.defect_type
                if kind in masked_types:
                    stem = PurePosixPath(candidate.path).stem
                    expected = f"expected ground_truth/{kind}/{stem}_mask.png or {stem}.png"
                    problems.append(Problem(candidate.path, f"has no mask: {expected}"))
                else:
                    message = f"has no mask, and ground_truth has no folder {kind!r}: pixel metrics leave it out"
                    problems.append(Problem(candidate.path, message, "warning"))
        return problems

    def _places(self, paths: Sequence[str]) -> Iterator[_Place]:
        own_name = self._own_name()
        for path in paths:
            parts = path.split("/")
            if parts[0] in _PARTS and own_name:
                parts = [own_name, *parts]
            if len(parts) < 3 or parts[1] not in _PARTS or not is_image(path):
                continue
            category, part, *below = parts
            defect_type = below[0] if len(below) > 1 else ""
            name = str(PurePosixPath(*below[1:] if defect_type else below).with_suffix(""))
            if part == "ground_truth":
                name = name.removesuffix("_mask")
            yield _Place(category, part, defect_type, name, path)

    def _own_name(self) -> str | None:
        return None


@register_reader
class FolderReader(MvtecLayout):
    """Reader of the layout above; the categories are the folders found."""

    name: ClassVar[str] = "folder"
    version: ClassVar[int] = 1
    origin: ClassVar[str] = "your own images"
    layout: ClassVar[str] = MVTEC_LAYOUT

    category: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="name of the one category where the root itself holds train/; default: the root's own",
    )

    def categories(self) -> list[str]:
        """The folders that hold training or test images, sorted."""
        found = self.assign(list(ImageFiles(self.root).listing()))
        if not found:
            raise ValueError(
                f"no category under {self.root!r}: expected <category>/train/good/*.png; correct "
                "datasets.<name>.root in the benchmark file or with --set datasets.<name>.root=/path"
            )
        return checked_keys(sorted(found), self.root)

    def _own_name(self) -> str | None:
        return self.category or PurePosixPath(self.root.replace("\\", "/")).name or "root"
