"""ONNX files of whole detectors, run by ONNX Runtime, against the product on the same pixels."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ad_assets.backbones.backbone import Backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.bundle import onnx_graph
from ad_assets.bundle.onnx_graph import GraphSpec, MissingExporterError, check_installed, state_inputs
from ad_assets.methods import METHODS, Batch, Method, Runtime
from tests.support.tap_features import tap_features

RUNTIME = Runtime()
TOLERANCE = 1e-5  # of the largest score of the map
SIDE = 32
TINY = Extractor(backbone="test_resnet", weights="random(0)", taps=("layer1", "layer2"), resize=(SIDE, SIDE))
BANK = {"pre_dimensions": 24, "dimensions": 24, "coreset_ratio": 0.2, "projection": 8}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("patchcore", {**BANK, "neighbours": 2}),
    ("patchcore", {"pooling": "concat", "coreset_ratio": 0.3, "image_score": "reweighted"}),
    ("patchcluster", {**BANK, "neighbours": 3}),
    ("patchcore_lof", {**BANK, "neighbours": 10}),
    ("anomalydino", {"image_share": 0.1}),
    ("superadd", {"max_rows": 300, "subsets": 4, "sigma": 2.0}),
    ("padim", {"channels": 10}),
    ("simplenet", {"pooling": "concat", "hidden_units": 8, "epochs": 2}),
    ("fod", {"widths": (8, 16), "heads": 2, "depth": 1, "epochs": 1}),
    ("fod", {"widths": (8, 16), "heads": 2, "depth": 1, "epochs": 1, "reference": "nearest", "criterion": "div"}),
    ("hetmm", {"windows": (5, 3), "windows_backward": (3, 3), "sheets": 2}),
    ("hetmm", {"windows": (5, 3), "matching": "patch"}),
    ("spade", {"neighbours": 50, "pixel_neighbours": 3}),
    ("rad", {"neighbours": 4, "radius": 2, "image_share": 0.1}),
    ("rad", {"neighbours": 50, "radius": None}),
]


def pixels(seed: int, images: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (images, SIDE, SIDE, 3), dtype=np.uint8)


def region() -> torch.Tensor:
    inspected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inspected[6:20, 3:30] = True
    return inspected


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(TINY)


def check_parity(backbone: Backbone, method: Method[Any], inspected: torch.Tensor | None = None) -> bytes:
    """Fit, export, run, compare; returns the file."""
    nominal, new = (
        backbone.extract(torch.stack([backbone.preprocess(one) for one in pixels(*each)])) for each in ((1, 6), (2, 3))
    )
    features = replace(tap_features(nominal), region=inspected)
    state = method.prepare(method.fit(features, RUNTIME), features, RUNTIME)
    expected = method.score(state, Batch(new, (SIDE, SIDE), region=inspected), RUNTIME)
    spec = GraphSpec(backbone.extractor, method, inspected is not None)
    data = spec.to_onnx()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    known = spec.scoring(backbone.tap_shapes).state(state, inspected)
    inputs = {name: known[name].numpy() for name in state_inputs(data)}
    for number, image in enumerate(pixels(2, 3)):
        score_map, score = session.run(["map", "score"], {"image": image[None], **inputs})
        largest = float(expected.maps[number].abs().max())
        assert score_map.shape == (1, SIDE, SIDE)
        assert score.shape == (1,)
        np.testing.assert_allclose(score_map[0], expected.maps[number].numpy(), rtol=0, atol=TOLERANCE * largest)
        np.testing.assert_allclose(score[0], float(expected.image_scores[number]), rtol=0, atol=TOLERANCE * largest)
    return data


def test_a_file_scores_as_the_product_and_holds_nothing_but_plain_operators(backbone: Backbone) -> None:
    data = check_parity(backbone, METHODS["patchcore"](**BANK), region())
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert {(each.domain, each.version) for each in model.opset_import} == {("", 20)}
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert b"/" + b"ad_assets" not in data  # no path of the machine that wrote it
    # What lies behind the deepest tap is not in it.
    assert sum(np.prod(tensor.dims) for tensor in model.graph.initializer) < 200_000


@pytest.mark.slow
@pytest.mark.parametrize("inspected", [None, region()], ids=["whole", "region"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name}-{n}" for n, (name, _) in enumerate(CASES)])
def test_every_method_scores_as_the_product(
    backbone: Backbone, name: str, options: dict[str, Any], inspected: torch.Tensor | None
) -> None:
    check_parity(backbone, METHODS[name](**options), inspected)


def test_an_address_follows_from_extractor_and_settings_alone() -> None:
    spec = GraphSpec(TINY, METHODS["patchcore"](**BANK))
    others = [
        GraphSpec(TINY.model_copy(update={"crop": 24}), spec.method),
        GraphSpec(TINY, METHODS["patchcore"](**BANK, sigma=2.0)),
        GraphSpec(TINY, spec.method, region=True),
    ]
    assert GraphSpec(TINY, METHODS["patchcore"](**BANK)).address == spec.address
    assert len({spec.address, *(other.address for other in others)}) == 4


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(MissingExporterError, match=r"no_such_package: pip install 'ad-assets\[onnxruntime\]'"):
        check_installed()
