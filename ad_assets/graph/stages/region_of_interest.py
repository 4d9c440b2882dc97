"""The region of interest of a category in the graph: kept in the store by its content, named by the image index's head.

Stages that score or measure read the part ``roi`` of that head, which only exists where there is a region; features
read none of it, so another region costs no feature. Contents are never collected: a champion keeps the one it was
promoted with whatever the file is by now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Dataset
from ad_assets.datasets.base import Reader
from ad_assets.datasets.files import ImageFiles, read_image_bytes
from ad_assets.datasets.geometry import fit_mask
from ad_assets.datasets.index import ImageIndex
from ad_assets.datasets.region_of_interest import RegionOfInterest, digest_of, from_png, to_png
from ad_assets.graph.stage import Head, Parts, Stage, StageError, Upstream, Work
from ad_assets.graph.stages.kept_pictures import keep_picture
from ad_assets.methods import Method
from ad_assets.store.store import Artifact, ArtifactStore
from ad_assets_runtime.geometry import Mask
from ad_assets_runtime.images import ImageError

if TYPE_CHECKING:
    from torch import Tensor

PART, REGION = "roi", "roi.json"
PICTURE_SIDE = 320
REMEDY = "index the category again with --force, with the mask as it was"


def region_source(dataset: Dataset, features: Stage) -> tuple[Stage, ...]:
    """The image index that features are of, where its categories may have regions; else nothing."""
    return features.deps[:1] if dataset.reader.has_regions else ()


def region_parts(upstream: Upstream, source: tuple[Stage, ...]) -> Parts:
    """The part ``roi`` of the image index that a stage reads; empty where the category has no region."""
    digest = region_digest(upstream.of(source[0])) if source else ""
    return {PART: digest} if digest else {}


def region_digest(index: Head | None) -> str:
    """The content of the region that an image index names; empty where it names none."""
    return index.parts.get(PART, "") if index else ""


def learns_inside(method: Method[Any] | None) -> bool:
    """Whether the state of a method is without what lies outside the region."""
    return method is not None and "roi_fit" in method.stage_config("fit")


def region_location(digest: str) -> str:
    """Where in the store a region lies."""
    return f"regions_of_interest/{digest}.png"


def write_region(work: Work, index: ImageIndex, region: RegionOfInterest, reader: Reader) -> dict[str, Any]:
    """Keep the region of an index.

    Returns:
        Metadata for people: its share of an image, and the first image with what is inspected of it.
    """
    from ad_assets.report import picture_files, pictures

    work.store.write_bytes(region_location(region.digest), to_png(region.inspected))
    work.store.write_json(work.artifact.at(REGION), {"path": region.path, "digest": region.digest})
    row = index.rows[0]
    rgb = reader.decoding.of(row["image_id"]).rgb(read_image_bytes(ImageFiles(reader.root), row), row["path"])
    small = pictures.resized(pictures.inspected(rgb, region.inspected), PICTURE_SIDE)
    return {
        "inspected_percent": round(100 * region.share, 2),
        **keep_picture(work, "region_of_interest", "what is inspected", picture_files.to_jpeg(small)),
    }


def region_files(artifact: Artifact) -> list[str]:
    """The file of the region of an image index, if it has one."""
    path = artifact.at(REGION)
    return [region_location(artifact.store.read_json(path)["digest"])] if artifact.store.exists(path) else []


def read_region(store: ArtifactStore, digest: str) -> Mask | None:
    """The region ``(H, W)`` bool of a content; None for an empty digest.

    Raises:
        StageError: it is not in the store.
        CorruptArtifactError: it is damaged.
    """
    if not digest:
        return None
    path = region_location(digest)
    try:
        inspected = from_png(store.read_bytes(path), path)
    except FileNotFoundError:
        raise StageError(f"{store.location(path)}, a region of interest, is gone: {REMEDY}") from None
    except ImageError as error:
        raise store.corrupt(path, error.message, REMEDY) from None
    if digest_of(inspected) != digest:
        raise store.corrupt(path, "it holds another region", REMEDY)
    return inspected


def in_frame(inspected: Mask, extractor: Extractor) -> Mask:
    """A region in the frame of an extractor's score maps, whose pixels are inspected if they hold an inspected one.

    Raises:
        StageError: none is left.
    """
    fitted = fit_mask(inspected, *extractor.map_geometry, "any_pixel")
    if not fitted.any():
        raise StageError(
            "the crop of the extractor cuts away all of the region of interest, so nothing would be inspected: use a "
            "larger crop, or none"
        )
    return fitted


def region_tensor(inspected: Mask | None, extractor: Extractor) -> Tensor | None:
    """As `in_frame`, for methods; None where there is no region."""
    import torch

    return None if inspected is None else torch.from_numpy(in_frame(inspected, extractor))
