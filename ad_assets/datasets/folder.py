"""Any folder in the layout of MVTec AD (Bergmann et al., CVPR 2019), the common currency of the field.

    <root>/<category>/train/good/NAME.png
    <root>/<category>/test/good/NAME.png
    <root>/<category>/test/<defect type>/NAME.png
    <root>/<category>/ground_truth/<defect type>/NAME_mask.png  or  NAME.png

``good``, ``ok`` and ``normal`` name nominal folders. Subfolders below a type are allowed, and repeated under
``ground_truth``. Masks pair by name, never by position. ``test`` and ``ground_truth`` may be missing; other
folders are not read. A root that itself holds ``train`` is one category.

With `manifest` a table decides instead of folder names: see `ad_assets.datasets.manifest`.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import Field

from ad_assets.datasets.base import (
    NOMINAL,
    NOMINAL_FOLDERS,
    AnomalyKind,
    Candidate,
    Problem,
    Reader,
    checked_keys,
    is_image,
    register_reader,
)
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.manifest import Entry, ManifestOption, assigned, manifest_problems, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    """What all datasets in the layout of MVTec AD, or in one that `_as_mvtec` turns into it, share.

    Class facts: `several_masks` (one file a region), `masks_required` (an anomalous image without one is an error, also
    where no image has any), `image_place` and `mask_place` (where errors say that a file is expected).
    """

    several_masks: ClassVar[bool] = False
    masks_required: ClassVar[bool] = False
    image_place: ClassVar[str] = "test/{type}/{name}.*"
    mask_place: ClassVar[str] = "ground_truth/{type}/{name}_mask.png or {name}.png"

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        places = sorted(self._places(paths))
        masks: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for place in places:
            if place.part == "ground_truth":
                masks[place.category, place.defect_type, place.name].append(place.path)
        found: dict[str, list[Candidate]] = defaultdict(list)
        for place in places:
            nominal = place.defect_type in NOMINAL_FOLDERS
            if place.part == "train" and nominal:
                found[place.category].append(Candidate(place.path, "train", 0, NOMINAL))
            elif place.part == "test" and nominal:
                found[place.category].append(Candidate(place.path, "test", 0, NOMINAL))
            elif place.part == "test" and place.defect_type:
                own = masks.get((place.category, place.defect_type, place.name), [])
                kept, kind = tuple(own if self.several_masks else own[:1]), self._kind(place.defect_type)
                found[place.category].append(Candidate(place.path, "test", 1, place.defect_type, kept, kind))
        return dict(found)

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        places = [place for place in self._places(paths) if place.category == category]
        masked_types = {place.defect_type for place in places if place.part == "ground_truth"}
        paired = {mask for candidate in candidates for mask in candidate.masks}
        problems = []
        for place in places:
            nominal = place.defect_type in NOMINAL_FOLDERS
            if place.part == "ground_truth" and not nominal and place.path not in paired:
                image = self.image_place.format(type=place.defect_type, name=place.name)
                message = f"mask without an image {image}, or a second mask of it: remove it"
                problems.append(Problem(place.path, message))
            elif place.part == "train" and not nominal:
                message = "not used: only train/good (or ok, normal) is; move it there or away"
                problems.append(Problem(place.path, message))
            elif place.part == "test" and not place.defect_type:
                message = "lies in no defect type's folder: move it to test/good or test/<defect type>"
                problems.append(Problem(place.path, message))
        for candidate in candidates:
            if candidate.label == 1 and not candidate.masks and (masked_types or self.masks_required):
                kind = candidate.defect_type
                if kind in masked_types or self.masks_required:
                    expected = self.mask_place.format(type=kind, name=PurePosixPath(candidate.path).stem)
                    problems.append(Problem(candidate.path, f"has no mask: expected {expected}"))
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
            parts = self._as_mvtec(parts)
            if len(parts) < 3 or parts[1] not in _PARTS or not is_image(path):
                continue
            category, part, *below = parts
            defect_type = below[0] if len(below) > 1 else ""
            name = str(PurePosixPath(*below[1:] if defect_type else below).with_suffix(""))
            if part == "ground_truth":
                name = name.removesuffix("_mask")
            yield _Place(category, part, defect_type, name, path)

    def _own_name(self) -> str | None:
        """The category where the root itself holds ``train``; None: each has a folder."""
        return None

    def _as_mvtec(self, parts: list[str]) -> list[str]:
        """The parts of a path as they would be in the layout of MVTec AD; empty: not part of the dataset."""
        return parts

    def _kind(self, defect_type: str) -> AnomalyKind:
        """What kind of anomaly the images of a folder show."""
        del defect_type
        return ""


@register_reader
class FolderReader(ManifestOption, MvtecLayout):
    """Reader of the layout above, or of a manifest; the categories are those found."""

    name: ClassVar[str] = "folder"
    version: ClassVar[int] = 1
    origin: ClassVar[str] = "your own images"
    layout: ClassVar[str] = MVTEC_LAYOUT

    category: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="name of the one category where the root itself holds train/ or the manifest names none; default: "
        "the root's own",
    )
    manifest: str | None = Field(
        None,
        min_length=1,
        description="CSV or Parquet table that says what each image is, relative to the root (or an absolute path, "
        "or a URL)",
    )

    def index_config(self) -> dict[str, Any]:
        # Indexes made before there were manifests keep their fingerprint.
        return {key: value for key, value in super().index_config().items() if key != "manifest" or value is not None}

    def categories(self) -> list[str]:
        """The manifest's, or the folders that hold training or test images; sorted."""
        if self.manifest:
            return sorted({entry.category for entry in self._entries()})
        found = self.assign(list(ImageFiles(self.root).listing()))
        if not found:
            raise ValueError(
                f"no category under {self.root!r}: expected <category>/train/good/*.png; correct "
                "datasets.<name>.root in the benchmark file or with --set datasets.<name>.root=/path"
            )
        return checked_keys(sorted(found), self.root)

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        return assigned(self._entries(), paths) if self.manifest else super().assign(paths)

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        if self.manifest:
            return manifest_problems([entry for entry in self._entries() if entry.category == category], paths)
        return super().check_names(category, paths, candidates)

    def _entries(self) -> list[Entry]:
        return read_manifest(self.root, self.manifest or "", own_name=self._own_name())

    def _own_name(self) -> str:
        return self.category or PurePosixPath(self.root.replace("\\", "/")).name or "root"
