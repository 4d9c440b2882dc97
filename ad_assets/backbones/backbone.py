"""Frozen timm backbones: features at named taps, nothing computed past the deepest tap."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock, local
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ad_assets.backbones.engines import EngineError, difference, load_engine, refuse
from ad_assets.backbones.extraction import Extraction, all_finite, overlapped, whole_shape
from ad_assets.backbones.feature_maps import Shape, channels_first
from ad_assets.backbones.network_input import network_input, normalised
from ad_assets.backbones.patches import fit_input_size
from ad_assets.backbones.tap_table import tap_table
from ad_assets.backbones.tracing import Taps
from ad_assets.backbones.weights import MissingWeights, build_model
from ad_assets_runtime.geometry import fit_image
from ad_assets_runtime.images import RgbImage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ad_assets.backbones.engines import Engine
    from ad_assets.backbones.extractor import Extractor
    from ad_assets.backbones.tiles import Span
    from ad_assets.settings.compute import Compute, Precision

MAX_LOADED = 2
# Most images of one pass on a CPU, which is a task of one thread: what they leave behind stays in the cache. With one
# thread PyTorch takes other convolutions from 16 images on, which round otherwise. Networks outside the table of taps
# see each image alone: linear layers and attention round otherwise in batches of any size.
CPU_IMAGES = 4
CHECKED_IMAGES = 2  # of those that pass first, beside the frames at loading, where another engine computes
TILES = 16  # of one image at once, which bounds the memory of their passes
Label = TypeVar("Label")

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
        extractor: the taps, the transform, the engine, and the precision (halves by autocast: weights and batch norms
            stay float32).
        device: torch device name.

    Attributes:
        tap_shapes: ``(C, h, w)`` of each tap.
        images_seen: images that passed forward since loading.
        engine: another than PyTorch.
        engine_difference: how far its features were from PyTorch's, the most so far; see `difference`.

    Raises:
        EngineError: the engine is not there, or gives other features than PyTorch.
        ValueError: the network takes no image of the extractor's input size, a tap is not there or gives no map in a
            known layout, or the device has no such precision.
    """

    def __init__(self, model: nn.Module, extractor: Extractor, device: str) -> None:
        import torch

        from ad_assets.backbones.arithmetic import check_device

        self.extractor = extractor
        self.device = torch.device(device)
        if extractor.engine != "torch" and self.device.type != "cpu":
            raise EngineError(
                f"engine: {extractor.engine} computes on CPUs; write compute.device: cpu, or engine: torch"
            )
        # The reference of another engine is float32 whatever that one computes in.
        self.precision: Precision = extractor.precision if extractor.engine == "torch" else "float32"
        check_device(self.precision, self.device)
        self._stored = torch.float16 if extractor.storage == "float16" else torch.float32
        self.images_seen = 0
        self._ahead = 0 if self.device.type == "cpu" else 1  # batches that a GPU has before the last is used
        self._lock = Lock()
        self._caught = _Caught()
        # Measured on a CPU (2 cores, batch 16, 224 px), ms an image: lite0 17 -> 10, resnet18 13 -> 9.
        # On CUDA the layout is for tensor cores, which float32 does not use here.
        channels_last = self.device.type == "cpu" or self.precision != "float32"
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        fit_input_size(model, extractor)
        model = model.eval().requires_grad_(False).to(self.device, memory_format=self._layout)  # type: ignore[call-overload]
        self._taps = Taps.of(model, extractor, self._forward)
        self.model = self._taps.network
        self.tap_shapes: list[Shape] = list(self._taps.shapes)
        if extractor.tiles:
            self.tap_shapes = [
                whole_shape(extractor, *each)
                for each in zip(extractor.taps, self.tap_shapes, extractor.reductions, strict=True)
            ]
        self._taps.hook(self._keep)
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
        from ad_assets.kernels.parallel import map_single_threaded

        if self.engine is None:
            return
        for image in batch.split(1):
            [expected] = map_single_threaded(self._maps, [image])
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

        return torch.from_numpy(network_input(self.extractor, rgb))

    def _normalised(self, rgb: RgbImage) -> Tensor:
        import torch

        return torch.from_numpy(normalised(self.extractor, rgb))

    def stack(self, images: Sequence[Tensor]) -> Tensor:
        """A batch of what `preprocess` gives, where a GPU copies it from while the caller goes on."""
        import torch

        # Of images with tiles, only these are copied.
        return torch.stack(list(images)) if self.extractor.tiles else self._pinned(images)

    def _pinned(self, images: Sequence[Tensor]) -> Tensor:
        import torch

        room = torch.empty((len(images), *images[0].shape), dtype=images[0].dtype, pin_memory=self.device.type != "cpu")
        return torch.stack(list(images), out=room)

    def extract(self, batch: Tensor) -> list[Tensor]:
        """Features of a batch ``(B, 3, H, W)`` of what `preprocess` gives: for each tap ``(B, C, h, w)`` on the CPU.

        They are float32, or float16 by `Extractor.storage`. Images with tiles pass the backbone one after another,
        `TILES` tiles at once. Run on a CPU, the values do not depend on the batch; on CUDA their last bits may.

        Raises:
            ValueError: the batch is not ``(B, 3, H, W)`` of the extractor's input size.
        """
        return self.start(batch).taps

    def extract_each(self, batches: Iterable[tuple[Label, Tensor]]) -> Iterator[tuple[Label, Extraction]]:
        """Features of labelled batches, in order; a GPU is given the next batch before one is handed out."""
        return overlapped(((label, self.start(batch)) for label, batch in batches), self._ahead)

    def start(self, batch: Tensor) -> Extraction:
        """As `extract`, without waiting for a GPU; with tiles, and on a CPU, all is computed on return.

        Raises:
            ValueError: as `extract`.
        """
        expected = (3, *self.extractor.input_size)
        if batch.ndim != 4 or tuple(batch.shape[1:]) != expected or not len(batch):
            raise ValueError(
                f"the batch has shape {tuple(batch.shape)}, expected (B, {expected[0]}, {expected[1]}, "
                f"{expected[2]}) from {type(self).__name__}.preprocess"
            )
        self.images_seen += len(batch)
        return self._extract_tiled(batch) if self.extractor.tiles else self._start_whole(batch)

    def probe(self, frame: RgbImage | None = None) -> list[Tensor]:
        """The taps of one frame of the size that passes at once, a tile or else the whole input; None: a grey one."""
        grey = np.full((*self.extractor.frame_size, 3), 128, np.uint8)
        return self._start_whole(self._normalised(grey if frame is None else frame)[None]).taps

    def _extract_tiled(self, batch: Tensor) -> Extraction:
        """The taps of images ``(B, 3, H, W)`` uint8, put together from their tiles."""
        import torch

        started = time.perf_counter()
        taps = [torch.empty((len(batch), *shape), dtype=self._stored) for shape in self.tap_shapes]
        for number, image in enumerate(batch):
            self._put_tiles(image, [tap[number] for tap in taps])
        return Extraction(taps, all_finite(taps), time.perf_counter() - started)

    def _put_tiles(self, image: Tensor, taps: Sequence[Tensor]) -> None:
        """Fill the taps ``(C, h, w)`` of one image ``(3, H, W)`` uint8."""
        extractor, (height, width) = self.extractor, self.extractor.frame_size
        if extractor.tiles is None:
            raise TypeError("the extractor has no tiles")
        rows, columns = (extractor.tiles.along(side, extractor.grid) for side in extractor.input_size)
        places = [(row, column) for row in rows for column in columns]

        def begun() -> Iterator[tuple[Sequence[tuple[Span, Span]], Extraction]]:
            for first in range(0, len(places), TILES):
                own = places[first : first + TILES]
                cut = [image[:, r.start : r.start + height, c.start : c.start + width] for r, c in own]
                tiles = self._pinned([self._normalised(each.permute(1, 2, 0).numpy()) for each in cut])
                yield own, self._start_whole(tiles)

        for own, parts in overlapped(begun(), self._ahead):
            for tap, part, step in zip(taps, parts.taps, extractor.reductions, strict=True):
                for number, (row, column) in enumerate(own):
                    (down, within_rows), (across, within_columns) = row.kept(step or 1), column.kept(step or 1)
                    tap[:, down, across] = part[number, :, within_rows, within_columns]

    def _start_whole(self, batch: Tensor) -> Extraction:
        """The taps of normalised inputs, each in one piece."""
        import torch

        from ad_assets.backbones.arithmetic import float32_as
        from ad_assets.kernels.parallel import map_single_threaded, spans, threads

        shapes, pinned = [(len(batch), *shape) for shape in self._taps.shapes], self.device.type != "cpu"
        taps = [torch.empty(shape, dtype=self._stored, pin_memory=pinned) for shape in shapes]
        finite = torch.empty(len(batch), dtype=torch.bool, pin_memory=pinned)
        with self._lock, float32_as(self.precision):
            if self.engine:
                self.engine.use_threads(threads())
                if self._unchecked:
                    self._compare_engine(batch[: self._unchecked])
                    self._unchecked = max(0, self._unchecked - len(batch))
            if pinned:
                begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                stream = torch.cuda.current_stream(self.device)
                begun.record(stream)
                self._pass(batch, taps, finite)
                done.record(stream)
                return Extraction(taps, finite, 0.0, (begun, done))

            def fill(part: slice) -> None:
                self._pass(batch[part], [tap[part] for tap in taps], finite[part])

            alone = self.engine or self.extractor.architecture not in tap_table()
            size, started = 1 if alone else min(CPU_IMAGES, -(-len(batch) // threads())), time.perf_counter()
            for _ in map_single_threaded(fill, spans(len(batch), size)):
                pass
            return Extraction(taps, finite, time.perf_counter() - started)

    def _pass(self, batch: Tensor, taps: Sequence[Tensor], finite: Tensor) -> None:
        """Fill the taps of one pass, as they are stored, and whether an image's are finite; a GPU does it later."""
        import torch

        maps = self.engine.run(batch) if self.engine else self._maps(batch)
        if self.device.type != "cpu":  # rounded and turned there: few bytes are copied, and each tap in one go
            maps = [each.to(self._stored, memory_format=torch.contiguous_format) for each in maps]
        for tap, each in zip(taps, maps, strict=True):
            tap.copy_(each, non_blocking=True)
        finite.copy_(all_finite(taps if self.device.type == "cpu" else maps), non_blocking=True)

    def _maps(self, batch: Tensor) -> list[Tensor]:
        """The taps of one pass of PyTorch, on its device, in the network's own memory."""
        try:
            self._forward(self.model, batch)
        except _DeepestTapReached:
            pass
        finally:
            caught, self._caught.taps = self._caught.taps, {}
        return [channels_first(caught[tap], self._taps.layouts[tap]) for tap in self._taps.modules]

    def _forward(self, network: nn.Module, batch: Tensor) -> None:
        import torch

        from ad_assets.backbones.arithmetic import halved

        # The layout is changed there: a copy that changes it would wait.
        inputs = batch.to(self.device, non_blocking=True).contiguous(memory_format=self._layout)
        with torch.inference_mode(), halved(self.precision, self.device):
            network(inputs)

    def _keep(self, tap: str, features: Tensor) -> None:
        # Cloned, because the layers that follow may work in place on the same memory.
        self._caught.taps[tap] = features if tap == self._taps.deepest else features.clone()
        if tap == self._taps.deepest:
            raise _DeepestTapReached


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


def forget_backbones() -> None:
    """Let go of the shared ones; they are loaded again when they are asked for."""
    with _LOADING:
        _LOADED.clear()
