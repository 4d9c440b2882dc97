"""Backbones in other engines than PyTorch, on CPUs: OpenVINO and ONNX Runtime, with PyTorch's features as the measure.

Each image is a pass of its own, on one thread: features depend neither on the batch nor on the number of threads.
Export takes seconds, so graphs are kept in the user's cache (``XDG_CACHE_HOME``, else ``~/.cache``).
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from threading import local
from typing import TYPE_CHECKING, Protocol

from ad_assets.settings.home import without_tilde
from ad_assets.store.local import write_whole
from ad_assets_runtime.engine_libraries import import_onnxruntime, import_openvino

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ad_assets.backbones.extractor import Extractor

GRAPH_VERSION = 1  # of the graphs in the cache
# Most that features may differ from PyTorch's. float32: of the largest value of the tap; 3e-6 measured with both
# engines. bfloat16: of the norm of the tap, to PyTorch's float32.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}


class EngineError(RuntimeError):
    """An engine is not there, or does not compute what PyTorch computes; the message says what to do."""


class Engine(Protocol):
    """A backbone's graph in an engine."""

    name: str

    def use_threads(self, count: int) -> None:
        """So many threads may call `run` at once from now on."""

    def run(self, image: Tensor) -> list[Tensor]:
        """The taps ``(1, C, h, w)`` float32 of one normalised image ``(1, 3, h, w)``."""


def load_engine(extractor: Extractor) -> Engine:
    """The engine of an extractor, with its graph.

    Raises:
        EngineError: its packages are not installed, or it has no such precision here.
        MissingWeights: see `TapNetwork.load`.
    """
    try:
        if extractor.engine == "openvino":
            return _OpenVino(extractor)
        return _OnnxRuntime(extractor)
    except ImportError as error:
        raise EngineError(
            f"engine: {extractor.engine} needs packages that are not installed ({error}): "
            f"pip install 'ad-assets[{extractor.engine}]', or write engine: torch"
        ) from error


class _OnnxRuntime:
    def __init__(self, extractor: Extractor) -> None:
        onnxruntime = import_onnxruntime()

        self.name = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(_graph(extractor), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def use_threads(self, count: int) -> None:
        """A pass is computed by the thread that asks for it."""

    def run(self, image: Tensor) -> list[Tensor]:
        import torch

        return [torch.from_numpy(each) for each in self._session.run(None, {self._input: image.numpy()})]


class _OpenVino:
    def __init__(self, extractor: Extractor) -> None:
        openvino = import_openvino()

        self.name = f"openvino {openvino.__version__.partition('-')[0]}"
        self._core = openvino.Core()
        self._hint = openvino.Type.bf16 if extractor.precision == "bfloat16" else openvino.Type.f32
        if extractor.precision == "bfloat16" and "BF16" not in self._core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise EngineError(
                "precision: bfloat16 is not to be had from engine: openvino on this CPU, which would compute float32; "
                "write precision: float32"
            )
        self._model = self._core.read_model(_graph(extractor))
        self._threads = 0
        self.use_threads(1)

    def use_threads(self, count: int) -> None:
        if count <= self._threads:
            return
        # Without a hint OpenVINO chooses bfloat16 in silence where the CPU has it. Each stream has one thread.
        options = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "NUM_STREAMS": count,
            "INFERENCE_NUM_THREADS": count,
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled = self._core.compile_model(self._model, "CPU", options)
        chosen = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        if chosen != self._hint:
            raise EngineError(
                f"engine: {self.name} computes in {chosen} though {self._hint} was asked for; write engine: torch"
            )
        self._threads = count
        self._requests = local()

    def run(self, image: Tensor) -> list[Tensor]:
        import torch

        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        found = self._requests.own.infer([image.numpy()])
        return [torch.from_numpy(each) for each in found.values()]


def difference(found: Sequence[Tensor], expected: Sequence[Tensor], precision: str) -> float:
    """The largest relative difference of some taps, as `TOLERANCE` means it. Values that are no numbers are equal."""
    import torch

    largest = 0.0
    for one, other in zip(found, expected, strict=True):
        own, reference = torch.nan_to_num(one.float()), torch.nan_to_num(other.float())
        if own.shape != reference.shape:
            return float("inf")
        if precision == "bfloat16":
            apart, whole = (own - reference).norm(), reference.norm()
        else:
            apart, whole = (own - reference).abs().max(), reference.abs().max()
        largest = max(largest, float(apart / whole) if whole else float("inf" if apart else 0))
    return largest


def refuse(engine: Engine, extractor: Extractor, apart: float) -> None:
    """Refuse an engine whose features are too far from PyTorch's.

    Raises:
        EngineError: they are.
    """
    allowed = TOLERANCE[extractor.precision]
    if not apart <= allowed:
        raise EngineError(
            f"engine: {engine.name} gives other features of {extractor.backbone} than PyTorch on this machine: they "
            f"differ by {apart:.1e}, allowed {allowed:.0e}; write engine: torch, or install another release"
        )


def _graph(extractor: Extractor) -> bytes:
    """The graph of `TapNetwork` for one image, from the cache or exported."""
    import torch

    identity = extractor.identity()
    own = {key: identity[key] for key in ("backbone", "weights", "taps", "pre_activation", "norm") if key in identity}
    facts = [GRAPH_VERSION, torch.__version__, own, extractor.frame_size]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    folder = without_tilde(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ad_assets" / "onnx"
    for file in sorted(folder.glob(f"{key}-*.onnx")):
        with suppress(OSError):
            graph = file.read_bytes()
            if file.name == _file_name(key, graph):  # another one is damaged
                return graph
    graph = _exported(extractor)
    with suppress(OSError):  # a cache that cannot be written costs the export each time
        write_whole(folder / _file_name(key, graph), graph)
    return graph


def _file_name(key: str, graph: bytes) -> str:
    return f"{key}-{hashlib.sha256(graph).hexdigest()[:32]}.onnx"


def _exported(extractor: Extractor) -> bytes:
    import torch

    from ad_assets.backbones.onnx_graph import TapNetwork, export_onnx

    example = torch.zeros(1, 3, *extractor.frame_size)
    outputs = [f"tap{number}" for number, _ in enumerate(extractor.taps)]
    graph: bytes = export_onnx(TapNetwork.load(extractor), [example], outputs).SerializeToString()
    return graph
