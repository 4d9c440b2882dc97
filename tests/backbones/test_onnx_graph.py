"""A backbone as an ONNX graph gives the features of the backbone, and holds nothing behind the deepest tap."""

from typing import Any

import numpy as np
import onnxruntime
import torch

from ad_assets.backbones.backbone import Backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.onnx_graph import FrameNetwork, TapNetwork, export_onnx


def test_an_exported_graph_gives_the_features_of_the_backbone() -> None:
    normalisation: dict[str, Any] = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 2.0)}
    # Its ReLUs work in place, on what the taps ahead of them gave.
    options: dict[str, Any] = {"taps": ["layer1", "layer2"], "pre_activation": True, **normalisation}
    extractor = Extractor(backbone="test_resnet", weights="random(0)", resize=(48, 64), **options)
    frames = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3), dtype=np.uint8)
    backbone = Backbone.load(extractor)
    expected = backbone.extract(torch.stack([backbone.preprocess(frame) for frame in frames]))

    network = FrameNetwork(TapNetwork.load(extractor), extractor)
    before = network(torch.from_numpy(frames))
    model = export_onnx(network, [torch.from_numpy(frames)], extractor.taps)
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"frames": frames})

    assert [output.name for output in model.graph.output] == list(extractor.taps)
    for tap, value, eager in zip(found, expected, before, strict=True):
        assert value.abs().max() > 0
        np.testing.assert_allclose(tap, value, rtol=0, atol=1e-5 * float(value.abs().max()))
        torch.testing.assert_close(eager, value, rtol=0, atol=1e-5 * float(value.abs().max()))
    assert torch.equal(network(torch.from_numpy(frames))[0], before[0])  # the export leaves it as it was
    weights = {each.name for each in model.graph.initializer}
    assert not [name for name in weights if any(late in name for late in ("fc.", "layer3"))]
    assert any("layer1" in name for name in weights)


def test_a_graph_rounds_features_as_they_are_stored() -> None:
    options: dict[str, Any] = {
        "backbone": "test_resnet",
        "weights": "random(0)",
        "taps": ["layer1"],
        "resize": (64, 64),
    }
    frame = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact, rounded = (
        FrameNetwork(TapNetwork.load(extractor), extractor)(frame)[0]
        for extractor in (Extractor(**options), Extractor(**options, storage="float16"))
    )
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, exact.half().float())
    assert not torch.equal(rounded, exact)
