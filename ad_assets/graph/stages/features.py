"""Backbone features, stored by image: only images never seen by this extractor pass the backbone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.view import View
from ad_assets.backbones.weights import licence_of
from ad_assets.config.benchmark import Dataset, fingerprint
from ad_assets.datasets.base import Reader
from ad_assets.graph.provenance import REMADE
from ad_assets.graph.stage import (
    GPU,
    Check,
    CheckReport,
    CheckResult,
    Parts,
    Stage,
    StageError,
    Upstream,
    Work,
)
from ad_assets.graph.stages.extraction import Extracted, ExtractionJob, FeaturesSettings, extract_in_process
from ad_assets.graph.stages.feature_files import (
    IMAGES,
    REMADE_MARK,
    drop_damaged,
    feature_files,
    feature_path,
    noted,
    read_feature_index,
    seconds_of,
    sound_features,
    stored_features,
    unhashed,
)
from ad_assets.graph.stages.image_index import images_part, read_index
from ad_assets.methods import Features
from ad_assets.store.layout import MARKER
from ad_assets.store.records import recall
from ad_assets.store.store import Artifact, ArtifactStore

VERSION = 1
NOT_FINITE = "another compute.precision, storage: float32, or other weights; the images themselves were read"
ALL = {"": True}  # categories
FINITE = Check("finite", "All features are finite numbers.", blocking=True)


def features_stage(
    dataset: Dataset, index: Stage, name: str, extractor: Extractor, turn: int = 0, turned_in: Mapping[str, bool] = ALL
) -> Stage:
    """The asset ``<dataset>/features/<extractor>``, or ``<dataset>/features/<extractor>/turned_<degrees>``.

    Args:
        dataset: whose images.
        index: their index.
        name: of the extractor.
        extractor: the extractor.
        turn: of features of turned images, which nominal training images alone have: degrees, counterclockwise.
        turned_in: whether a category has these; under the empty name, whether all others have.
    """
    settings = FeaturesSettings(VERSION, extractor, turn)
    address = features_address(extractor, turn)
    reader, production, own_images = dataset.reader, dataset.production is not None, dataset.own_images
    splits = ("train",) if turn else ("train", "test")

    def wanted_in(category: str | None) -> bool:
        return turned_in.get(category or "", turned_in[""])

    def parts(upstream: Upstream) -> Parts:
        images = upstream.of(index).parts
        # Labels and masks are not read here: relabelling an image changes nothing.
        return {
            split: fingerprint([address, images[split] if wanted_in(upstream.partition) else ""]) for split in splits
        }

    def build(work: Work) -> dict[str, Any]:
        extractor = work.settings.extractor
        rows = read_index(work.input(index)) if wanted_in(work.partition) else []
        rows = [row for row in rows if row["split"] in splits]
        images = {row["image_id"]: row for row in rows}
        wanted = {feature_path(address, image) for image in images}
        stored = sound_features(work.store, f"features/{address}", wanted)
        if work.verify:
            # Not only by sizes: where the record was damaged too, nothing else has read them.
            stored -= drop_damaged(work.store, stored)
        doubtful = stored if work.force else unhashed(work.store, stored) if work.verify else set()
        missing = [image for image in sorted(images) if feature_path(address, image) not in stored - doubtful]
        made = _extract(work, reader, {image: images[image] for image in missing}, doubtful)
        odd = [images[image]["path"] for image in made.odd]
        remade = _remade(work, address, images)
        if odd and not production:
            raise StageError(f"features of {odd[0]} and others are not finite: {NOT_FINITE}")
        split = {name: sorted({row["image_id"] for row in rows if row["split"] == name}) for name in ("train", "test")}
        work.store.write_json(work.artifact.at(IMAGES), {"extractor": address, **split})
        sizes = {(row["height"], row["width"]) for row in rows}
        some = _seconds(work.store, address, sorted(images)[:200], made.seconds)
        return {
            "images": len(images),
            "extracted": len(missing),
            "images_per_second": len(some) / sum(some) if some and sum(some) else 0.0,
            "backbone": f"{extractor.backbone} ({extractor.weights})",
            "taps": ", ".join(extractor.taps),
            **({} if turn else View.of(extractor, sizes).facts(name, own_images)),
            **({"tap_shapes": made.shapes, **_licence(extractor)} if made.shapes else {}),
            **({"not_finite": odd} if odd else {}),
            **({REMADE: remade} if remade else {}),
        }

    def answer_checks(work: Work) -> CheckReport:
        odd = work.artifact.facts().get("not_finite", [])
        metadata = {"images": "\n".join(odd[:20]) or "all", "remedy": NOT_FINITE}
        return CheckReport((CheckResult("finite", not odd, metadata),))

    return Stage(
        key=(dataset.name, "features", name, *((f"turned_{turn}",) if turn else ())),
        kind="features",
        settings=settings,
        deps=(index,),
        address=parts,
        build=build,
        must_rebuild=_must_rebuild,
        shared_files=feature_files,
        answer_checks=answer_checks if production else None,
        checks=(FINITE,) if production else (),
        partitions=index.partitions,
        pool=GPU,
        group=f"{dataset.name}/features",
        kinds=frozenset({"torch", "safetensors"}),
        description=f"Features of {extractor.backbone} ({extractor.weights} weights) at {', '.join(extractor.taps)}, "
        f"{f'of nominal images turned by {turn} degrees, ' if turn else ''}in shards, addressed by the image's "
        "content and the extractor's settings.",
    )


def _licence(extractor: Extractor) -> dict[str, str]:
    licence = licence_of(extractor)
    return {"licence_of_weights": licence} if licence else {}


def features_address(extractor: Extractor, turn: int = 0) -> str:
    """Under which the features of all images lie, turned by so many degrees; the code version of their asset."""
    return fingerprint(FeaturesSettings(VERSION, extractor, turn).address())


def extractor_of(features: Stage) -> Extractor:
    """The extractor of a features stage."""
    settings = features.settings
    if not isinstance(settings, FeaturesSettings):
        raise TypeError(f"{features.name} extracts no features")
    return settings.extractor


def train_part(address: str, image_ids: Sequence[str]) -> str:
    """The ``train`` part of the head of features whose training images are these."""
    return fingerprint([address, images_part(image_ids)])


def _must_rebuild(artifact: Artifact) -> bool:
    """Whether features of an earlier release, or ones that differ, make an extraction again worth while."""
    paths = feature_files(artifact)
    known = artifact.facts().get(REMADE, [])
    return bool(unhashed(artifact.store, paths)) or noted(artifact.store, paths, REMADE_MARK) != known


def _remade(work: Work, address: str, images: Collection[str]) -> list[str]:
    """Those of some images whose features were those of other bytes; read from all files where all is verified."""
    if work.verify or work.force:
        return noted(work.store, (feature_path(address, image) for image in images), REMADE_MARK)
    head = work.before
    before = recall(work.store, work.store.artifact("features", head.version).at(MARKER)) if head else None
    return sorted(set((before or {"metadata": {}})["metadata"].get(REMADE, [])) & set(images))


def _extract(work: Work, reader: Reader, rows: dict[str, dict[str, Any]], doubtful: set[str]) -> Extracted:
    """Run the backbone over images and store each one's taps, by the engine of the benchmark file.

    Of those features that are `doubtful`, it is noted whether they were others.
    """
    if not rows:
        return Extracted()
    job = ExtractionJob.of(work, reader, rows)
    if work.extract.engine == "ray":
        from ad_assets.graph.stages.ray_extraction import extract_on_ray

        return extract_on_ray(work, job, rows, doubtful)
    return extract_in_process(work, job, rows, doubtful)


def _seconds(store: ArtifactStore, address: str, images: Sequence[str], taken: Mapping[str, float]) -> list[float]:
    """What each of some images took: those that were extracted just now, and others as their files say."""
    others = [feature_path(address, image) for image in images if image not in taken]
    return [*(taken[image] for image in images if image in taken), *seconds_of(store, others)]


def read_features(work: Work, features: Stage, split: str, layers: tuple[int, ...] | None) -> Features:
    """The stored features of one split, in the order of image ids; `layers` as a method has them, from 1."""
    address, images = read_feature_index(work.input(features))
    return stored_features(work.store, work.compute, address, images[split], layers, extractor_of(features))
