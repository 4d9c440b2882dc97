"""Other engines than PyTorch give its features, the same bits in any batch, or are refused by name."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ad_assets.backbones import engines
from ad_assets.backbones.backbone import CHECKED_IMAGES, Backbone
from ad_assets.backbones.engines import EngineError, difference
from ad_assets.backbones.extractor import Extractor
from ad_assets.kernels.parallel import use_threads
from ad_assets_runtime.engine_libraries import import_openvino

OTHERS = ["openvino", "onnxruntime"]


def _extractor(engine: str, **options: Any) -> Extractor:
    default = {"backbone": "test_resnet", "weights": "random(0)", "taps": ["/4", "/8"], "resize": [64, 64]}
    return Extractor.model_validate(default | {"engine": engine} | options)


def _batch(images: int) -> torch.Tensor:
    return torch.randn(images, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _shared_cache(onnx_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(onnx_cache))


@pytest.fixture
def _one_thread_after() -> Any:
    yield
    use_threads(1)


@pytest.mark.usefixtures("_one_thread_after")
@pytest.mark.parametrize("engine", OTHERS)
def test_features_are_pytorchs_and_the_same_bits_in_any_batch_on_any_threads(engine: str) -> None:
    batch = _batch(5)
    expected = Backbone.load(_extractor("torch")).extract(batch)
    backbone = Backbone.load(_extractor(engine))
    together = backbone.extract(batch)
    assert 0 < difference(together, expected, "float32") < 1e-5
    assert 0 < backbone.engine_difference < 1e-5
    assert all(tap.is_contiguous() and tap.dtype == torch.float32 for tap in together)
    for count, size in ((1, 1), (2, 5), (2, 2), (3, 4)):
        use_threads(count)
        parts = [backbone.extract(part) for part in batch.split(size)]
        for level, features in enumerate(together):
            assert torch.equal(features, torch.cat([part[level] for part in parts]))


@pytest.mark.parametrize("engine", OTHERS)
def test_tiles_and_half_storage_pass_an_engine_too(engine: str) -> None:
    options = {"resize": [64, 96], "tiles": {"size": 64, "overlap": 16}, "storage": "float16"}
    rgb = torch.randint(0, 256, (64, 96, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    expected, found = (
        backbone.extract(backbone.preprocess(rgb)[None])
        for backbone in (Backbone.load(_extractor(name, **options)) for name in ("torch", engine))
    )
    assert all(tap.dtype == torch.float16 for tap in found)
    assert difference(found, expected, "float32") < 1e-3  # a step of float16


def test_openvino_computes_bfloat16_where_it_is_asked_for_alone() -> None:
    openvino = import_openvino()

    extractor = _extractor("openvino", precision="bfloat16")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(EngineError, match="precision: bfloat16 is not to be had from engine: openvino on this CPU"):
            Backbone.load(extractor)
    else:
        assert 1e-4 < Backbone.load(extractor).engine_difference < 0.1


def test_a_hint_that_is_not_taken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = import_openvino()

    compiled = openvino.CompiledModel.get_property
    monkeypatch.setattr(
        openvino.CompiledModel,
        "get_property",
        lambda self, name: openvino.Type.bf16 if name == "INFERENCE_PRECISION_HINT" else compiled(self, name),
    )
    with pytest.raises(EngineError, match=r"openvino 20.* computes in .*bfloat16.* though .*float32.* was asked for"):
        Backbone.load(_extractor("openvino"))


@pytest.mark.parametrize("engine", OTHERS)
def test_features_that_are_not_pytorchs_are_refused(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone.load(_extractor(engine))
    assert backbone.engine
    honest = backbone.engine.run
    monkeypatch.setattr(backbone.engine, "run", lambda image: [tap * 1.001 for tap in honest(image)])
    with pytest.raises(EngineError, match=f"engine: {engine} .* gives other features of test_resnet than PyTorch"):
        backbone.extract(_batch(1))
    monkeypatch.setattr(backbone.engine, "run", honest)
    backbone.extract(_batch(CHECKED_IMAGES))
    assert backbone.engine_difference > 9e-4

    kind = {"openvino": "_OpenVino", "onnxruntime": "_OnnxRuntime"}[engine]
    plain = getattr(engines, kind).run
    monkeypatch.setattr(getattr(engines, kind), "run", lambda self, image: [tap + 1 for tap in plain(self, image)])
    with pytest.raises(EngineError, match="allowed 1e-04; write engine: torch"):
        Backbone.load(_extractor(engine))


@pytest.mark.parametrize("engine", OTHERS)
def test_a_package_that_is_not_there(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(EngineError, match=rf"pip install 'ad-assets\[{engine}\]', or write engine: torch"):
        Backbone.load(_extractor(engine))


def test_engines_compute_on_cpus() -> None:
    with pytest.raises(EngineError, match=r"engine: openvino computes on CPUs; write compute.device: cpu"):
        Backbone.load(_extractor("openvino"), device="cuda:0")


def test_a_damaged_graph_in_the_cache_is_exported_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    exports: list[Extractor] = []

    def export(extractor: Extractor) -> bytes:
        exports.append(extractor)
        return b"a graph"

    monkeypatch.setattr(engines, "_exported", export)
    assert [engines._graph(_extractor("openvino")) for _ in range(2)] == [b"a graph"] * 2
    assert engines._graph(_extractor("onnxruntime", storage="float16")) == b"a graph"
    assert len(exports) == 1
    [file] = tmp_path.rglob("*.onnx")
    file.write_bytes(b"a gr")
    assert engines._graph(_extractor("openvino")) == b"a graph"
    assert engines._graph(_extractor("openvino", taps=["/8"])) == b"a graph"
    assert len(exports) == 3


def test_pytorch_is_in_no_address_and_others_are() -> None:
    plain = _extractor("torch").identity()
    assert "engine" not in plain
    for engine in OTHERS:
        assert _extractor(engine).identity() == plain | {"engine": engine}


@pytest.mark.parametrize(
    ("engine", "precision", "message"),
    [
        *(("onnxruntime", each, "computes in float32 on CPUs") for each in ("tf32", "float16", "bfloat16")),
        *(("openvino", each, "computes in float32 or bfloat16 on CPUs") for each in ("tf32", "float16")),
    ],
)
def test_a_precision_that_an_engine_has_not_is_refused(engine: str, precision: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"engine: {engine} {message}"):
        _extractor(engine, precision=precision)
