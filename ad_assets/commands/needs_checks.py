"""Tells before a run what detectors need in main memory, in temporary files and in the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from ad_assets.backbones.backbone import load_backbone
from ad_assets.config.benchmark import Benchmark, Dataset, Detector
from ad_assets.datasets import ImageFiles
from ad_assets.graph.stages.feature_files import read_feature_index
from ad_assets.graph.stages.joint_bank import JOINING
from ad_assets.kernels.scratch import free_bytes, lies_in_memory, scratch_folder
from ad_assets.methods import Method
from ad_assets.methods.needs import Needs, disk_warning, growth_warning, most_images
from ad_assets.store.store import CorruptArtifactError

SHOWN = 5


def needs_checks(benchmark: Benchmark, name: str) -> Iterator[tuple[str, bool, str]]:
    """What each detector of a dataset needs in memory and on disk, for the category with the most nominal images.

    Yields:
        What was looked at, whether a fit of it is not refused, and what it needs.
    """
    dataset, budget = benchmark.datasets[name], benchmark.compute.memory_gb
    free, folder = free_bytes(), str(scratch_folder())
    for detector in dataset.detectors.values():
        if detector.method is None or detector.draw_of:  # draws need what the first of them does
            continue
        if detector.joins:
            yield from _joint_needs(benchmark, dataset, detector)
            continue
        subject = f"needs of {name}/{detector.name}"
        try:
            counts = _nominal_images(benchmark, name, detector.extractor)
            shapes = load_backbone(benchmark.extractors[detector.extractor], benchmark.compute).tap_shapes
        except (OSError, ValueError, RuntimeError, KeyError, CorruptArtifactError) as error:
            yield subject, True, f"not known: {error}"
            continue
        said, warnings, refused = "", [], False
        for category, images in sorted(counts.items(), key=lambda item: -item[1]):
            needs = partial(_needs_of, detector.method_for(category), shapes)
            own, most = needs(images), most_images(needs, budget)
            bound = f" of at most {most}" if most is not None else ""
            said = said or f"{category}, {images} nominal images{bound}: {own.sentence(budget)}"
            told = [growth_warning(images, most)] if most is not None else []
            told.append(disk_warning(own, budget, free, folder))
            warnings += [f"{category}: {each}" for each in told if each]
            if own.disk(budget) and lies_in_memory():
                warnings.append(f"{category}: {folder} lies in main memory; set TMPDIR to a folder on a disk")
            refused |= not own.fits(budget) or own.disk(budget) > free
        if said:
            more = f"; and {len(warnings) - SHOWN} more" if warnings[SHOWN:] else ""
            warned = f"; warning: {'; '.join(warnings[:SHOWN])}{more}" if warnings else ""
            yield subject, not refused, said + warned


def _joint_needs(benchmark: Benchmark, dataset: Dataset, detector: Detector) -> Iterator[tuple[str, bool, str]]:
    """What the joint bank of the banks that are stored takes while it is joined; nothing where none is stored."""
    kind, budget = detector.method_for("").state_asset, benchmark.compute.memory_gb
    try:
        categories = dataset.reader.categories()
    except (OSError, ValueError):  # the finding of the dataset says why
        return
    heads = [benchmark.store.read_head((dataset.name, str(detector.joins), kind), category) for category in categories]
    sizes = [sum(head.get("files", {}).values()) for head in heads if head]
    if sizes:
        size = JOINING * sum(sizes)
        said = f"joined of {len(sizes)} of {len(heads)} categories: {size:.2g} GB in memory"
        warning = f"; warning: more than compute.memory_gb ({budget:g}): raise it, or keep fewer rows"
        yield f"needs of {dataset.name}/{detector.name}", size <= budget, said + (warning if size > budget else "")


def _needs_of(method: Method[Any], shapes: Sequence[tuple[int, ...]], images: int) -> Needs:
    import torch

    layers = [layer - 1 for layer in method.layers] if method.layers else range(len(shapes))
    return method.needs([torch.empty(1, *shapes[layer], device="meta") for layer in layers], images)


def _nominal_images(benchmark: Benchmark, name: str, extractor: str) -> dict[str, int]:
    """Category -> its nominal images: those whose features were extracted last or, before, those in the folder."""
    reader, store = benchmark.datasets[name].reader, benchmark.store
    counts = {}
    for category, candidates in reader.assign(sorted(ImageFiles(reader.root).listing())).items():
        head = store.read_head((name, "features", extractor), category)
        if head is None:
            counts[category] = sum(each.split == "train" for each in candidates)
        else:
            counts[category] = len(read_feature_index(store.artifact("features", head["version"]))[1]["train"])
    return {category: images for category, images in counts.items() if images}
