"""Frozen timm backbones: features at named taps, nothing computed past the deepest tap."""

from __future__ import annotations

import json
from collections import OrderedDict
from contextlib import nullcontext
from threading import Lock, local
from typing import TYPE_CHECKING

import numpy as np

from ad_assets.backbones.engines import EngineError, difference, load_engine, refuse
from ad_assets.backbones.feature_maps import Shape, channels_first
from ad_assets.backbones.tracing import Taps
from ad_assets.backbones.weights import MissingWeights, build_model
from ad_assets_runtime.geometry import fit_image
from ad_assets_runtime.images import RgbImage

if TYPE_CHECKING:
    from torch import Tensor, dtype, nn

    from ad_assets.backbones.engines import Engine
    from ad_assets.backbones.extractor import Extractor
    from ad_assets.settings.compute import Compute

MAX_LOADED = 2
# Most images of one pass on a CPU, which is a task of one thread: what they leave behind stays in the cache. With one
# thread PyTorch takes other convolutions from 16 images on, which round otherwise.
CPU_IMAGES = 4
CHECKED_IMAGES = 2  # of those that pass first, beside the frames at loading, where another engine computes
TILES = 16  # of one image at once, which bounds the memory of their passes

__all__ = ["Backbone", "MissingWeights", "load_backbone"]


class _DeepestTapReached(Exception):  # noqa: N818 - leaves the forward pass, no error
    pass


class _Caught(local):
    """The taps of the pass that a thread is in."""

    def __init__(self) -> None:
        self.taps: dict[str, Tensor] = {}


class Backbone:
    """A frozen network on one device, with hooks at its taps. Calls of `extract` are serialised.

    With another engine than PyTorch, PyTorch computes the features of a few frames too, in float32, and of the first
    images: they must be the same to `TOLERANCE`.

    Args:
        model: a timm model with its weights.
        extractor: the taps, the transform, the engine, and the precision (bfloat16 by autocast: weights and batch norms
            stay float32).
        device: torch device name.

    Attributes:
        tap_shapes: ``(C, h, w)`` of each tap.
        images_seen: images that passed forward since loading.
        engine: another than PyTorch.
        engine_difference: how far its features were from PyTorch's, the most so far; see `difference`.

    Raises:
        EngineError: the engine is not there, or gives other features than PyTorch.
        ValueError: the network takes no image of the extractor's input size, or a tap is not there or gives no map in
            a known layout.
    """

    def __init__(self, model: nn.Module, extractor: Extractor, device: str) -> None:
        import torch

        self.extractor = extractor
        self.device = torch.device(device)
        if extractor.engine != "torch" and self.device.type != "cpu":
            raise EngineError(
                f"engine: {extractor.engine} computes on CPUs; write compute.device: cpu, or engine: torch"
            )
        # The reference of another engine is float32 whatever that one computes in.
        self.precision = extractor.precision if extractor.engine == "torch" else "float32"
        self._stored = torch.float16 if extractor.storage == "float16" else torch.float32
        self.images_seen = 0
        self._lock = Lock()
        self._caught = _Caught()
        # Measured on a CPU (2 cores, batch 16, 224 px), ms an image: lite0 17 -> 10, resnet18 13 -> 9.
        # On CUDA the layout is for tensor cores, which float32 does not use here.
        channels_last = self.device.type == "cpu" or self.precision == "bfloat16"
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.eval().requires_grad_(False).to(self.device, memory_format=self._layout)  # type: ignore[call-overload]
        self._taps = Taps.of(model, extractor, self._forward)
        self.tap_shapes: list[Shape] = list(self._taps.shapes)
        if extractor.tiles:
            self.tap_shapes = [
                _whole_shape(extractor, *each)
                for each in zip(extractor.taps, self.tap_shapes, extractor.reductions, strict=True)
            ]
        self._taps.hook(model, self._keep)
        self.engine: Engine | None = None
        self.engine_difference = 0.0
        self._unchecked = CHECKED_IMAGES
        if extractor.engine != "torch":
            self._set_engine(load_engine(extractor))

    def _set_engine(self, engine: Engine) -> None:
        """Let an engine compute, if it agrees with PyTorch on noise and on a photograph."""
        import torch
        from skimage.data import chelsea

        self.engine = engine
        size = self.extractor.frame_size
        noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        frames = [noise, fit_image(chelsea(), size, None, self.extractor.interpolation)]
        self._compare_engine(torch.stack([self._normalised(frame) for frame in frames]))

    def _compare_engine(self, batch: Tensor) -> None:
        """Compare the features of normalised inputs.

        Raises:
            EngineError: the engine's are not PyTorch's.
        """
        import torch

        from ad_assets.kernels.parallel import map_single_threaded

        if self.engine is None:
            return
        for image in batch.split(1):
            [expected] = map_single_threaded(lambda one: self._pass_of_torch(one, torch.float32), [image])
            apart = difference(self.engine.run(image), expected, self.extractor.precision)
            self.engine_difference = max(self.engine_difference, apart)
            refuse(self.engine, self.extractor, apart)

    @classmethod
    def load(cls, extractor: Extractor, *, device: str = "cpu") -> Backbone:
        """Build the network and load its weights.

        Raises:
            MissingWeights: the weights cannot be had or do not fit the architecture.
            ValueError: timm has no such model, or a tap is wrong.
        """
        return cls(build_model(extractor), extractor, device)

    def preprocess(self, rgb: RgbImage) -> Tensor:
        """Resize, crop and normalise one image: ``(H, W, 3)`` uint8 -> ``(3, h, w)`` float32. Thread safe.

        With tiles the result is uint8: it is a quarter of the size, and `extract` normalises tile by tile.
        """
        import torch

        fitted = fit_image(rgb, *self.extractor.geometry, self.extractor.interpolation)
        if self.extractor.tiles:
            return torch.from_numpy(np.array(fitted.transpose(2, 0, 1), order="C"))
        return self._normalised(fitted)

    def _normalised(self, rgb: RgbImage) -> Tensor:
        import torch

        mean, std = (np.array(values, np.float32) for values in self.extractor.normalisation)
        return torch.from_numpy((rgb.astype(np.float32) / 255 - mean) / std).permute(2, 0, 1).contiguous()

    def extract(self, batch: Tensor) -> list[Tensor]:
        """Features of a batch ``(B, 3, H, W)`` of what `preprocess` gives: for each tap ``(B, C, h, w)`` on the CPU.

        They are float32, or float16 by `Extractor.storage`. Images with tiles pass the backbone one after another,
        `TILES` tiles at once. Run on a CPU, the values do not depend on the batch; on CUDA their last bits may.

        Raises:
            ValueError: the batch is not ``(B, 3, H, W)`` of the extractor's input size.
        """
        import torch

        expected = (3, *self.extractor.input_size)
        if batch.ndim != 4 or tuple(batch.shape[1:]) != expected or not len(batch):
            raise ValueError(
                f"the batch has shape {tuple(batch.shape)}, expected (B, {expected[0]}, {expected[1]}, "
                f"{expected[2]}) from {type(self).__name__}.preprocess"
            )
        if self.extractor.tiles:
            images = [self._extract_tiled(image) for image in batch]
            self.images_seen += len(batch)
            return [torch.stack(tap) for tap in zip(*images, strict=True)]
        self.images_seen += len(batch)
        return self._extract_whole(batch)

    def probe(self, frame: RgbImage | None = None) -> list[Tensor]:
        """The taps of one frame of the size that passes at once, a tile or else the whole input; None: a grey one."""
        grey = np.full((*self.extractor.frame_size, 3), 128, np.uint8)
        return self._extract_whole(self._normalised(grey if frame is None else frame)[None])

    def _extract_tiled(self, image: Tensor) -> list[Tensor]:
        """The taps ``(C, h, w)`` of one image ``(3, H, W)`` uint8, put together from its tiles."""
        import torch

        extractor, (height, width) = self.extractor, self.extractor.frame_size
        if extractor.tiles is None:
            raise TypeError("the extractor has no tiles")
        rows, columns = (extractor.tiles.along(side, extractor.grid) for side in extractor.input_size)
        taps: list[Tensor] = []
        places = [(row, column) for row in rows for column in columns]
        for first in range(0, len(places), TILES):
            own = places[first : first + TILES]
            cut = [image[:, r.start : r.start + height, c.start : c.start + width] for r, c in own]
            tiles = torch.stack([self._normalised(each.permute(1, 2, 0).numpy()) for each in cut])
            parts = self._extract_whole(tiles)
            taps = taps or [
                torch.empty(shape, dtype=part.dtype) for shape, part in zip(self.tap_shapes, parts, strict=True)
            ]
            for tap, part, step in zip(taps, parts, extractor.reductions, strict=True):
                for number, (row, column) in enumerate(own):
                    (down, within_rows), (across, within_columns) = row.kept(step or 1), column.kept(step or 1)
                    tap[:, down, across] = part[number, :, within_rows, within_columns]
        return taps

    def _extract_whole(self, batch: Tensor) -> list[Tensor]:
        """The taps of normalised inputs, each in one piece."""
        import torch

        from ad_assets.kernels.parallel import map_single_threaded, threads

        # TF32 convolutions, torch's default, would make float32 depend on the card.
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with self._lock, exact:
            if self.engine:
                self.engine.use_threads(threads())
                if self._unchecked:
                    self._compare_engine(batch[: self._unchecked])
                    self._unchecked = max(0, self._unchecked - len(batch))
            if self.device.type == "cpu":
                size = 1 if self.engine else min(CPU_IMAGES, -(-len(batch) // threads()))
                parts = list(map_single_threaded(self._pass, batch.split(size)))
            else:
                parts = [self._pass(batch)]
        return [torch.cat(tap) for tap in zip(*parts, strict=True)]

    def _pass(self, batch: Tensor) -> list[Tensor]:
        """The taps of one pass, as they are stored."""
        if self.engine:
            return [each.to(self._stored) for each in self.engine.run(batch)]
        return self._pass_of_torch(batch, self._stored)

    def _pass_of_torch(self, batch: Tensor, kept: dtype) -> list[Tensor]:
        """They are cloned outside inference mode, so that a method may train on them."""
        import torch

        try:
            self._forward(batch)
        except _DeepestTapReached:
            pass
        finally:
            caught, self._caught.taps = self._caught.taps, {}
        maps = [channels_first(caught[tap], self._taps.layouts[tap]) for tap in self._taps.modules]
        return [each.to(kept).cpu().clone(memory_format=torch.contiguous_format) for each in maps]

    def _forward(self, batch: Tensor) -> None:
        import torch

        half = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()
        with torch.inference_mode(), half:
            self.model(batch.to(self.device, memory_format=self._layout))

    def _keep(self, tap: str, features: Tensor) -> None:
        # Cloned, because the layers that follow may work in place on the same memory.
        self._caught.taps[tap] = features if tap == self._taps.deepest else features.clone()
        if tap == self._taps.deepest:
            raise _DeepestTapReached


def _whole_shape(extractor: Extractor, tap: str, shape: Shape, step: int | None) -> Shape:
    """``(C, h, w)`` of a tap of a whole image, from that of one tile.

    Raises:
        ValueError: the tap does not shrink a tile by exactly its reduction.
    """
    channels, rows, columns = shape
    height, width = extractor.frame_size
    if not step or (rows * step, columns * step) != (height, width):
        raise ValueError(
            f"tiles: {tap} makes {rows}x{columns} cells of a tile of {height}x{width}, which do not fit together at a "
            f"reduction of {step}; choose another tap"
        )
    height, width = extractor.input_size
    return channels, height // step, width // step


_LOADED: OrderedDict[str, Backbone] = OrderedDict()
_LOADING = Lock()


def load_backbone(extractor: Extractor, compute: Compute) -> Backbone:
    """The backbone of an extractor, loaded once and shared in this process; the last two are kept.

    Raises:
        MissingWeights: see `Backbone.load`.
        ValueError: see `Backbone.load`.
        RuntimeError: the device is not there.
    """
    device = compute.torch_device()
    key = json.dumps([extractor.identity(), device], sort_keys=True)
    with _LOADING:
        if key not in _LOADED:
            _LOADED[key] = Backbone.load(extractor, device=device)
        _LOADED.move_to_end(key)
        while len(_LOADED) > MAX_LOADED:
            _LOADED.popitem(last=False)
        return _LOADED[key]
