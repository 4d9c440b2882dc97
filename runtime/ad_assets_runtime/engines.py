"""Runs the graph of a bundle: ONNX Runtime, or OpenVINO, on the CPU in float32."""

from __future__ import annotations

import io
from collections.abc import Mapping
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ad_assets_runtime.engine_libraries import import_onnxruntime, import_openvino
from ad_assets_runtime.words import short

EngineName = Literal["onnxruntime", "openvino"]
ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")
# OpenVINO's own choice on CPUs with avx512_bf16 or AMX is bfloat16, which moves scores by per cents.
_OPENVINO_PRECISION = "f32"
Tensors = Mapping[str, NDArray[Any]]


class EngineError(ValueError):
    """A graph cannot be run; the message says why."""


class Engine(Protocol):
    """A graph with its state; threads may share it.

    Attributes:
        name: of the library.
        version: of the library.
    """

    name: EngineName
    version: str

    def run(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
        """Score map ``(h, w)`` and image score of one fitted image ``(1, h, w, 3)`` uint8, RGB."""
        ...


def open_engine(name: EngineName, graph: bytes, state: Tensors, threads: int | None = None) -> Engine:
    """Load a graph.

    Args:
        name: of the library.
        graph: content of the ``.onnx`` file, with inputs ``image`` and those of the state, outputs ``map``, ``score``.
        state: the other inputs of the graph.
        threads: of one image; None: as many as the library takes.

    Raises:
        EngineError: the library is not installed, or refuses the graph.
    """
    opened: Engine
    try:
        opened = (OpenVino if name == "openvino" else OnnxRuntime)(graph, state, threads)
    except ImportError as error:
        raise EngineError(f"{name} is not installed: pip install {name}") from error
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(f"{name} refuses the graph: {short(error)}") from error
    return opened


class OnnxRuntime:
    """ONNX Runtime on the CPU."""

    name: EngineName = "onnxruntime"

    def __init__(self, graph: bytes, state: Tensors, threads: int | None) -> None:
        onnxruntime = import_onnxruntime()

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Threads that spin after an image take the cores from the next champion's: four in one process were 2.5 times
        # as slow; one alone is 7 % slower so.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # It would keep the temporaries of an image in one block of their own beside the arena's, and makes none faster:
        # HETMM's 60 sheets at 256 px take 2.6 GB without, 3.9 GB with it.
        options.enable_mem_pattern = False
        if threads:
            options.intra_op_num_threads = threads
        self.version: str = onnxruntime.__version__
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        _check_names([each.name for each in self._session.get_inputs()], state)
        self._state = dict(state)

    def run(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
        """See `Engine.run`."""
        score_map, score = self._session.run(["map", "score"], {**self._state, "image": image})
        return score_map[0], float(score[0])


class OpenVino:
    """OpenVINO on the CPU, held to float32."""

    name: EngineName = "openvino"

    def __init__(self, graph: bytes, state: Tensors, threads: int | None) -> None:
        openvino = import_openvino()

        core = openvino.Core()
        model = core.read_model(io.BytesIO(graph))
        hints = {"INFERENCE_PRECISION_HINT": _OPENVINO_PRECISION, "PERFORMANCE_HINT": "LATENCY"}
        hints |= {"INFERENCE_NUM_THREADS": str(threads)} if threads else {}
        compiled = core.compile_model(model, "CPU", hints)
        _check_names([each.get_any_name() for each in compiled.inputs], state)
        self.version: str = openvino.__version__.partition("-")[0]
        self._tensors = {name: openvino.Tensor(np.ascontiguousarray(values)) for name, values in state.items()}
        self._request = compiled.create_infer_request()
        for name, tensor in self._tensors.items():
            self._request.set_tensor(name, tensor)
        self._tensor, self._lock = openvino.Tensor, Lock()

    def run(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
        """See `Engine.run`."""
        with self._lock:
            self._request.set_tensor("image", self._tensor(np.ascontiguousarray(image)))
            self._request.infer()
            score_map, score = (self._request.get_tensor(name).data for name in ("map", "score"))
            return np.array(score_map[0]), float(score[0])


def _check_names(inputs: list[str], state: Tensors) -> None:
    wanted, given = set(inputs), {"image", *state}
    if wanted != given:
        differ = ", ".join(sorted(wanted ^ given))
        raise EngineError(f"the inputs of the graph are not those of the state: {differ[:300]}")
