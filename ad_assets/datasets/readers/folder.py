"""Any folder in the layout of MVTec AD (Bergmann et al., CVPR 2019), the most common one of the field.

    <root>/<category>/train/good/NAME.png
    <root>/<category>/test/good/NAME.png
    <root>/<category>/test/<defect type>/NAME.png
    <root>/<category>/ground_truth/<defect type>/NAME_mask.png  or  NAME.png

``good``, ``ok``, ``normal`` and ``nominal`` name nominal folders; these names and ``train``, ``test`` and
``ground_truth`` are accepted in any case, and near misses of them are errors (`ad_assets.datasets.names`). Subfolders
below a type are allowed, and repeated under ``ground_truth``. Masks pair by name, never by position. ``test`` and
``ground_truth`` may be missing. Files in these folders that are not read are reported with counts and names, and so are
other folders that hold images. A root that itself holds ``train`` is one category.

With `manifest` a table decides instead of folder names: see `ad_assets.datasets.readers.manifest`.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from pydantic import Field, model_validator

from ad_assets.datasets.base import AnomalyKind, Candidate, DatasetError, Problem, Reader, register_reader
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.names import (
    CATEGORY_KEY,
    CATEGORY_RULE,
    NOMINAL,
    PARTS,
    canonical_name,
    is_image,
    is_nominal,
    near_nominal,
    near_part,
)
from ad_assets.datasets.readers.decoding_options import DecodingOptions
from ad_assets.datasets.readers.group_option import COLUMN, GroupOption
from ad_assets.datasets.readers.manifest import (
    Manifest,
    ManifestOption,
    assigned,
    folders_of,
    manifest_problems,
    read_groups,
    read_manifest,
)
from ad_assets.datasets.readers.region_option import RegionOption
from ad_assets.datasets.strays import counted, misplaced, unread

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from ad_assets.datasets.listing import Listing

SHOWN = 5
MVTEC_LAYOUT = """\
<category>/train/good/NAME.png
<category>/test/good/NAME.png
<category>/test/<defect type>/NAME.png
<category>/ground_truth/<defect type>/NAME_mask.png"""


class _LocatedFile(NamedTuple):
    category: str
    part: str  # train | test | ground_truth
    defect_type: str  # "" for a file outside the folders of defect types
    name: str  # pairs an image with its mask: the path below the defect type, without suffix
    path: str


class MvtecLayout(Reader):
    """Base of readers of datasets in the layout of MVTec AD, or in one that `_as_mvtec` converts to it.

    Class attributes: `several_masks`, one mask file per region; `masks_required`, a missing mask is an error even where
    no image has any; `more_folders`, further folders of a category; `reports_other_folders`, images in folders of any
    other name cause a warning; `image_place` and `mask_place`, the expected paths that errors name.
    """

    several_masks: ClassVar[bool] = False
    masks_required: ClassVar[bool] = False
    more_folders: ClassVar[tuple[str, ...]] = ()
    reports_other_folders: ClassVar[bool] = False
    image_place: ClassVar[str] = "test/{type}/{name}.*"
    mask_place: ClassVar[str] = "ground_truth/{type}/{name}_mask.png or {name}.png"

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        files = sorted(self._places(paths))
        masks: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for file in files:
            if file.part == "ground_truth":
                masks[file.category, file.defect_type, file.name].append(file.path)
        by_category: dict[str, list[Candidate]] = defaultdict(list)
        for file in files:
            nominal = is_nominal(file.defect_type)
            if file.part == "train" and nominal:
                by_category[file.category].append(Candidate(file.path, "train", 0, NOMINAL))
            elif file.part == "test" and nominal:
                by_category[file.category].append(Candidate(file.path, "test", 0, NOMINAL))
            elif file.part == "test" and file.defect_type and not near_nominal(file.defect_type):
                masks_of_image = masks.get((file.category, file.defect_type, file.name), [])
                used, kind = (
                    tuple(masks_of_image if self.several_masks else masks_of_image[:1]),
                    self._kind(file.defect_type),
                )
                by_category[file.category].append(Candidate(file.path, "test", 1, file.defect_type, used, kind))
        return dict(by_category)

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        located = [file for file in self._located(paths) if file.category == category]
        files = [file for file in located if is_image(file.path)]
        masked_types = {file.defect_type for file in files if file.part == "ground_truth"}
        paired = {mask for candidate in candidates for mask in candidate.masks}
        problems = unread(file.path for file in located if not is_image(file.path))
        problems += misplaced(self._outside(category, paths))
        nearly = defaultdict[str, list[str]](list)
        for file in files:
            nominal = is_nominal(file.defect_type)
            if file.part == "ground_truth" and not nominal and file.path not in paired:
                image = self.image_place.format(type=file.defect_type, name=file.name)
                message = f"mask without an image {image}, or a second mask of it: remove it"
                problems.append(Problem(file.path, message))
            elif file.part == "train" and not nominal:
                message = "not used: only train/good (or ok, normal, nominal) is; move it there or away"
                problems.append(Problem(file.path, message))
            elif file.part == "test" and not file.defect_type:
                message = "lies in no defect type's folder: move it to test/good or test/<defect type>"
                problems.append(Problem(file.path, message))
            elif file.part == "test" and near_nominal(file.defect_type):
                nearly[file.defect_type].append(file.path)
        for defect_type, images in nearly.items():
            message = (
                f"holds {counted(images, 'image')}, nominal or not? Rename the folder to {near_nominal(defect_type)} "
                "(or good, ok, normal, nominal), or to the name of a defect"
            )
            problems.append(Problem(f"{category}/test/{defect_type}", message))
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

    def parts_of(self, categories: Collection[str]) -> set[str] | None:
        return set(categories)

    def paths_by_category(self, paths: Sequence[str]) -> dict[str, list[str]]:
        by_category = defaultdict[str, list[str]](list)
        for path, parts in self._split(paths):
            by_category[parts[0]].append(path)
        return dict(by_category)

    def _places(self, paths: Sequence[str]) -> Iterator[_LocatedFile]:
        return (file for file in self._located(paths) if is_image(file.path))

    def _located(self, paths: Sequence[str]) -> Iterator[_LocatedFile]:
        """Files of any format in the folders of images and masks of valid category names."""
        for path, split_path in self._split(paths):
            parts = self._as_mvtec(split_path)
            if len(parts) < 3 or not (canonical_name(parts[1]) and CATEGORY_KEY.fullmatch(parts[0])):
                continue
            category, part, *below = parts
            defect_type = below[0] if len(below) > 1 else ""
            name = "/".join(below[1:] if defect_type else below)
            stem = name.rpartition("/")[2].rpartition(".")
            if stem[0] and stem[2]:  # a suffix, as pathlib has it
                name = name[: -len(stem[2]) - 1]
            if part == "ground_truth":
                name = name.removesuffix("_mask")
            yield _LocatedFile(category, part, defect_type, name, path)

    def _split(self, paths: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        """Each path with its parts, the category first and split names in lower case."""
        splits = [path.split("/") for path in paths]
        own_name = self._own_name()
        # A category may have the name of a split; then its subfolders have split names too.
        flat = own_name and any(
            len(parts) > 1 and canonical_name(parts[0]) and not canonical_name(parts[1]) for parts in splits
        )
        for path, parts in zip(paths, splits, strict=True):
            if flat and own_name and not canonical_name(parts[1] if len(parts) > 2 else ""):
                parts = [own_name, *parts]
            if len(parts) > 2:
                parts = [parts[0], self._folder(parts[1]), *parts[2:]]
            yield path, parts

    def _folder(self, name: str) -> str:
        """The canonical name of a folder of the layout, whatever its case; other names unchanged."""
        return canonical_name(name, (*PARTS, *self.more_folders)) or name

    def _outside(self, category: str, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Folder and path of images of a category outside the folders of its layout."""
        for path, parts in self._split(paths):
            name = parts[1] if len(parts) > 2 else ""
            reported = near_part(name) or self.reports_other_folders
            if reported and parts[0] == category and name not in (*PARTS, *self.more_folders) and is_image(path):
                yield path.rsplit("/", max(len(parts) - 2, 1))[0], path

    def _own_name(self) -> str | None:
        """Name of the category where the root itself holds ``train``; None: every category has a folder."""
        return None

    def _as_mvtec(self, parts: list[str]) -> list[str]:
        """The parts of a path converted to the layout of MVTec AD; empty: not part of the dataset."""
        return parts

    def _kind(self, defect_type: str) -> AnomalyKind:
        """The kind of anomaly that the images of a defect type show."""
        del defect_type
        return ""


@register_reader
class FolderReader(DecodingOptions, ManifestOption, RegionOption, GroupOption, MvtecLayout):
    """Reader of the layout above or of a manifest; categories are those found."""

    name: ClassVar[str] = "folder"
    version: ClassVar[int] = 2
    reports_other_folders: ClassVar[bool] = True
    origin: ClassVar[str] = "your own images"
    layout: ClassVar[str] = MVTEC_LAYOUT

    category: str | None = Field(
        None,
        pattern=f"^{CATEGORY_KEY.pattern}$",
        description="name of the one category where the root itself holds train/ or the manifest names none; default: "
        "the root's own",
    )
    manifest: str | None = Field(
        None,
        min_length=1,
        description="CSV or Parquet table that says what each image is, relative to the root (or an absolute path, "
        "or a URL)",
    )

    @property
    def own_images(self) -> bool:
        """They are."""
        return True

    def index_config(self) -> dict[str, Any]:
        # Indexes made before there were manifests keep their fingerprint.
        return {key: value for key, value in super().index_config().items() if key != "manifest" or value is not None}

    def categories(self) -> list[str]:
        """Sorted: those of the manifest, or the folders with training or test images; `misfits` reports the others."""
        if self.manifest:
            return sorted(self._manifest().by_category)
        if found := self._found_by_folder():
            return found
        paths = list(ImageFiles(self.root).listing())
        by_category = self.assign(paths)
        if not by_category:
            problems = [str(problem) for problem in self.misfits(paths) if problem.severity == "error"]
            raise ValueError(
                f"no category under {self.root!r}: expected <category>/train/good/*.png; correct "
                "datasets.<name>.root in the benchmark file or with --set datasets.<name>.root=/path"
                + "".join(f"\n  {problem}" for problem in problems[:SHOWN])
            )
        return sorted(by_category)

    def _found_by_folder(self) -> list[str]:
        """The sorted categories of a local root, of each no more than its first image seen; empty: not told so."""
        files = ImageFiles(self.root)
        try:
            folders = files.subfolders()
            if folders is None or any(map(canonical_name, folders)):  # the root itself may be a category
                return []
            return sorted(name for name in folders if CATEGORY_KEY.fullmatch(name) and self._holds_images(files, name))
        except OSError:  # missing, may not be read, changed meanwhile: a whole listing tells, and tries again
            return []

    def _holds_images(self, files: ImageFiles, category: str) -> bool:
        """Whether any file in a folder of the root is an image for training or testing."""
        parts = [part for part in files.subfolders(category) or () if canonical_name(part, ("train", "test"))]
        below = (f"{category}/{part}/{kind}" for part in parts for kind in files.subfolders(f"{category}/{part}") or ())
        # By its name alone first: a folder of other files may be large.
        return any(
            self.assign([f"{folder}/image.png"]) and files.any_file(folder, lambda path: bool(self.assign([path])))
            for folder in below
        )

    def parts_of(self, categories: Collection[str]) -> set[str] | None:
        if self.manifest:
            try:
                return folders_of(self._manifest(), categories)
            except DatasetError:  # `assign` says what is wrong
                return None
        try:
            beside = ImageFiles(self.root).subfolders()
        except OSError:
            return None
        # Where the root holds a folder of a split, it may be a category itself.
        return None if beside is None or any(map(canonical_name, beside)) else super().parts_of(categories)

    def tables(self, category: str) -> tuple[str, ...]:
        region = self.region_path(category) if category else None
        return (*super().tables(category), *([region] if region else []))

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        return self.grouped(assigned(self._manifest().entries, paths) if self.manifest else super().assign(paths))

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        if self.manifest:
            found = manifest_problems(self._manifest().by_category.get(category, ()), paths)
        else:
            found = super().check_names(category, paths, candidates)
        return [*found, *self.ungrouped(category, candidates)]

    def paths_by_category(self, paths: Sequence[str]) -> dict[str, list[str]]:
        there, by_category = set(paths), self._own_paths(paths)
        regions = {category: self.region_path(category) for category in by_category}
        return {
            category: [*own, *(path for path in (regions[category],) if path in there and path not in own)]
            for category, own in by_category.items()
        }

    def _own_paths(self, paths: Sequence[str]) -> dict[str, list[str]]:
        if not self.manifest:
            return super().paths_by_category(paths)
        there = set(paths)
        return {
            category: [path for row in rows for path in (row.candidate.path, *row.candidate.masks) if path in there]
            for category, rows in self._manifest().by_category.items()
        }

    def stands(self, category: str, listing: Listing) -> bool:
        if self.manifest:
            return False  # the manifest does not name it
        # Where the root itself is the category, the folders of its splits decide.
        return category in listing.folders() or (
            category == self._own_name() and any(map(canonical_name, listing.folders()))
        )

    def misfits(self, paths: Sequence[str]) -> list[Problem]:
        paths = [path for path in paths if not self.is_region(path)]
        categories = self.assign(paths).keys()
        strangers = sorted(self.roi.keys() - categories) if isinstance(self.roi, dict) else []
        unmatched = [Problem(name, "roi names a region of it, and it has no images", "warning") for name in strangers]
        if self.manifest:
            named = {path for e in self._manifest().entries for path in (e.candidate.path, *e.candidate.masks)}
            rest = [path for path in paths if is_image(path) and path not in named]
            in_no_row = [Problem(self.manifest, f"names {counted(rest, 'image')} in no row", "warning")]
            return [*unmatched, *(in_no_row if rest else [])]
        folders = defaultdict[str, list[tuple[str, list[str]]]](list)
        for path, parts in self._split(paths):
            if parts[0] not in categories and is_image(path):
                folders[parts[0] if len(parts) > 1 else ""].append((path, parts))
        return [*unmatched, *(self._misfit(folder, images) for folder, images in sorted(folders.items()))]

    def _split(self, paths: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        return super()._split([path for path in paths if not self.is_region(path)] if self.roi else paths)

    def _misfit(self, folder: str, images: Sequence[tuple[str, list[str]]]) -> Problem:
        unread_images = f"{counted([path for path, _ in images], 'image')} not read: "
        names = {parts[1] for _, parts in images if len(parts) > 2}
        if any(canonical_name(name) for name in names) and not CATEGORY_KEY.fullmatch(folder):
            return Problem(
                folder, f"{unread_images}its name cannot be a category's ({CATEGORY_RULE}): rename the folder"
            )
        for name in sorted(names | {folder}):
            if near_part(name):
                where = folder if name == folder else f"{folder}/{name}"
                return Problem(
                    where, f"{unread_images}is it {near_part(name)}? Only train, test and ground_truth are; rename it"
                )
        expected = "expected <category>/train/good/*.png"
        return Problem(folder or self.root, f"{unread_images}no folder train or test in it; {expected}", "warning")

    def column_groups(self) -> Mapping[str, str]:
        return read_groups(self.root, self.manifest or "")

    @model_validator(mode="after")
    def _column_of_a_manifest(self) -> Self:
        if self.groups == COLUMN and not self.manifest:
            raise ValueError("groups: column is the column group of a manifest, and there is none; name it, or folder")
        return self

    def _manifest(self) -> Manifest:
        return read_manifest(self.root, self.manifest or "", own_name=self._own_name())

    def _own_name(self) -> str:
        return self.category or PurePosixPath(self.root.replace("\\", "/")).name or "root"
