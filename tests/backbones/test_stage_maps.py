"""Transformers: maps of tokens are timm's own and those of a slow implementation, at any input size, in any batch."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from ad_assets.backbones.backbone import Backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.onnx_graph import TapNetwork
from ad_assets.backbones.reach import reach_of

VIT: dict[str, Any] = {"embed_dim": 24, "depth": 3, "num_heads": 2}
REGISTERS = {**VIT, "img_size": 98}
SWIN: dict[str, Any] = {"img_size": 32, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": 4}
HIERA: dict[str, Any] = {"img_size": (64, 64), "embed_dim": 8, "stages": (1, 1, 2, 1)}
# Architecture, height and width, smaller options, taps, options of the extractor.
NETWORKS = [
    ("vit_tiny_patch16_224", (64, 96), VIT, ["blocks.0", "blocks.1"], {}),
    ("vit_tiny_patch16_224", (64, 96), VIT, ["blocks.0", "blocks.1"], {"norm": True}),
    ("vit_small_patch14_reg4_dinov2", (70, 84), REGISTERS, ["blocks.0", "/14"], {"norm": True}),
    ("vit_small_patch16_dinov3", (64, 96), {**VIT, "num_heads": 1}, ["blocks.0", "blocks.2"], {"norm": True}),
    ("eva02_tiny_patch14_224", (70, 84), VIT, ["blocks.1"], {}),
    ("vit_base_patch16_clip_224", (96, 64), VIT, ["blocks.1"], {"norm": True}),
    ("vit_base_patch16_siglip_224", (96, 64), VIT, ["blocks.1"], {"norm": True}),
    ("deit_tiny_distilled_patch16_224", (64, 64), VIT, ["blocks.1"], {}),
    ("convit_tiny", (224, 224), {"depth": 2, "local_up_to_layer": 1, "embed_dim": 8}, ["blocks.0", "blocks.1"], {}),
    ("swin_tiny_patch4_window7_224", (32, 32), SWIN, ["layers.0", "layers.1"], {"norm": True}),
    ("hiera_tiny_224", (64, 64), HIERA, ["/4", "/8"], {}),
    ("mvitv2_tiny", (224, 224), {}, ["/4", "/8"], {}),
    ("pvt_v2_b0", (64, 96), {}, ["stages.1", "/16"], {}),
    ("test_convnext", (64, 96), {}, ["/8", "/16"], {}),
    ("test_efficientnet", (64, 96), {}, ["blocks.1", "blocks.2"], {}),
    ("test_resnet", (128, 96), {}, ["/8", "/16"], {}),
]


def _extractor(backbone: str, taps: list[str], size: tuple[int, int], **options: Any) -> Extractor:
    given = {"backbone": backbone, "weights": "random(0)", "taps": taps, "resize": size, **options}
    return Extractor.model_validate(given)


def _model(name: str, options: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=0, **options).eval()
    for name, parameter in model.named_parameters():  # zeros and ones would hide norms and embeddings left out
        if parameter.ndim == 1 or "pos_embed" in name or "token" in name:
            nn.init.normal_(parameter, 0.5, 0.5)
    return model


def _images(count: int, size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "size", "options", "taps", "own"), NETWORKS, ids=lambda value: str(value)[:30])
def test_maps_are_those_of_a_direct_call_in_any_batch(
    name: str, size: tuple[int, int], options: dict[str, Any], taps: list[str], own: dict[str, Any]
) -> None:
    model = _model(name, options)
    backbone = Backbone(copy.deepcopy(model), _extractor(name, taps, size, **own), "cpu")
    images = _images(3, size)
    found = backbone.extract(images)
    if getattr(getattr(model, "patch_embed", None), "strict_img_size", False) and hasattr(model, "set_input_size"):
        model.set_input_size(size)
    stages = [stage["module"] for stage in model.feature_info]
    steps = {f"/{stage['reduction']}": stage["module"] for stage in model.feature_info}
    numbers = [stages.index(steps.get(tap, tap)) for tap in taps]
    with torch.inference_mode():
        expected = model.forward_intermediates(images, indices=numbers, intermediates_only=True, **own)
    assert [tuple(each.shape[1:]) for each in expected] == list(backbone.tap_shapes)
    for each, direct in zip(found, expected, strict=True):
        torch.testing.assert_close(each, direct, rtol=1e-4, atol=1e-4)
    singly = [backbone.extract(image[None]) for image in images]
    assert all(
        torch.equal(each, torch.cat(alone)) for each, alone in zip(found, zip(*singly, strict=True), strict=True)
    )


def _layer_norm(x: np.ndarray, norm: nn.LayerNorm) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
    return scaled * _numbers(norm.weight) + _numbers(norm.bias)


def _numbers(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().double().numpy()


def _linear(x: np.ndarray, layer: nn.Linear) -> np.ndarray:
    return x @ _numbers(layer.weight).T + (_numbers(layer.bias) if layer.bias is not None else 0)


def _block(x: np.ndarray, block: Any) -> np.ndarray:
    query, key, value = np.split(_linear(_layer_norm(x, block.norm1), block.attn.qkv), 3, axis=-1)
    heads, seen = block.attn.num_heads, []
    for q, k, v in zip(*(np.split(each, heads, axis=-1) for each in (query, key, value)), strict=True):
        weights = np.exp(q @ k.T / math.sqrt(q.shape[-1]))
        seen.append(weights / weights.sum(-1, keepdims=True) @ v)
    x = x + _gain(block.ls1) * _linear(np.concatenate(seen, -1), block.attn.proj)
    hidden = _linear(_layer_norm(x, block.norm2), block.mlp.fc1)
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return x + _gain(block.ls2) * _linear(hidden, block.mlp.fc2)


def _gain(scale: Any) -> np.ndarray:
    return _numbers(scale.gamma) if hasattr(scale, "gamma") else np.ones(1)


def _resampled(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A grid (h, w, C) of position embeddings: bicubic with a = -0.5, support widened where it shrinks."""
    for axis, wanted in enumerate(size):
        have = grid.shape[axis]
        scale = have / wanted
        width = max(scale, 1.0)
        weights = np.zeros((wanted, have))
        for to in range(wanted):
            for at in range(have):
                far = abs((at + 0.5 - (to + 0.5) * scale) / width)
                inner, outer = (1.5 * far - 2.5) * far**2 + 1, ((-0.5 * far + 2.5) * far - 4) * far + 2
                weights[to, at] = inner if far < 1 else outer if far < 2 else 0
        weights /= weights.sum(1, keepdims=True)
        grid = np.moveaxis(np.tensordot(weights, grid, (1, axis)), 0, axis)
    return grid


@pytest.mark.parametrize("size", [(98, 98), (70, 126)])
@pytest.mark.parametrize("registers", [0, 4])
def test_tokens_are_those_of_a_slow_implementation(size: tuple[int, int], registers: int) -> None:
    name = f"vit_small_patch14_{f'reg{registers}_' if registers else ''}dinov2"
    model: Any = _model(name, REGISTERS)
    image = _images(1, size)
    extractor = _extractor(name, ["blocks.1", "class_token"], size, norm=True)
    found, class_token = Backbone(copy.deepcopy(model), extractor, "cpu").extract(image)
    (height, width), own = (side // 14 for side in size), 98 // 14
    pixels = image[0].double().numpy().reshape(3, height, 14, width, 14).transpose(1, 3, 0, 2, 4)
    kernel = _numbers(model.patch_embed.proj.weight).reshape(24, -1)
    patches = pixels.reshape(height * width, -1) @ kernel.T + _numbers(model.patch_embed.proj.bias)
    places = _numbers(model.pos_embed)[0]
    ahead = len(places) - own * own  # the class token has a position of its own where there are no registers
    patches += _resampled(places[ahead:].reshape(own, own, 24), (height, width)).reshape(-1, 24)
    prefix = _numbers(model.cls_token)[0] + (places[:1] if ahead else 0)
    tokens = np.concatenate([prefix, *([_numbers(model.reg_token)[0]] if registers else []), patches])
    for block in model.blocks[:2]:
        tokens = _block(tokens, block)
    tokens = _layer_norm(tokens, model.norm)
    maps = tokens[1 + registers :].reshape(height, width, 24).transpose(2, 0, 1)
    np.testing.assert_allclose(found[0].numpy(), maps, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(class_token[0, :, 0, 0].numpy(), tokens[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("vit_small_patch16_dinov3", (64, 96), {**VIT, "num_heads": 1}),
        ("vit_small_patch14_reg4_dinov2", (70, 84), REGISTERS),
        ("deit_tiny_distilled_patch16_224", (64, 64), VIT),
        ("vit_base_patch16_clip_224", (96, 64), VIT),
    ],
)
def test_the_class_token_is_that_of_the_deepest_block(
    name: str, size: tuple[int, int], options: dict[str, Any], norm: bool
) -> None:
    model, images = _model(name, options), _images(3, size)
    backbone = Backbone(copy.deepcopy(model), _extractor(name, ["blocks.0", "blocks.1"], size, norm=norm), "cpu")
    given = _extractor(name, ["blocks.0", "blocks.1", "class_token"], size, norm=norm)
    with_token = Backbone(copy.deepcopy(model), given, "cpu")
    assert with_token.tap_shapes == [*backbone.tap_shapes, (24, 1, 1)]
    *maps, token = with_token.extract(images)
    assert all(torch.equal(each, plain) for each, plain in zip(maps, backbone.extract(images), strict=True))
    if getattr(model.patch_embed, "strict_img_size", False):
        model.set_input_size(size)  # type: ignore[operator]
    passed: list[torch.Tensor] = []
    model.blocks[1].register_forward_hook(lambda _module, _inputs, output: passed.append(output))  # type: ignore[index]
    with torch.inference_mode():
        model.forward_features(images)  # type: ignore[operator]
        expected = model.norm(passed[0]) if norm else passed[0]  # type: ignore[operator]
    torch.testing.assert_close(token[:, :, 0, 0], expected[:, 0], rtol=1e-4, atol=1e-4)
    assert reach_of(with_token)[-1] is None


@pytest.mark.parametrize(
    ("name", "taps", "options", "message"),
    [
        ("vit_small_patch16_dinov3", ["class_token"], {}, "goes last, behind the block"),
        ("vit_small_patch16_dinov3", ["class_token", "blocks.1"], {}, "goes last, behind the block"),
        ("vit_small_patch16_dinov3", ["/16", "class_token"], {"tiles": {"size": 32, "overlap": 0}}, "of its own"),
        ("resnet18", ["layer2", "class_token"], {}, "resnet18 has no 'class_token'"),
        ("vit_base_patch16_siglip_224", ["blocks.1", "class_token"], {}, "siglip_224 has no class token"),
        ("test_convnext", ["stages.1", "class_token"], {}, "test_convnext has no class token"),
    ],
)
def test_a_class_token_that_is_not_there_is_refused(
    name: str, taps: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone(_model(name, VIT if "vit" in name else {}), _extractor(name, taps, (64, 64), **options), "cpu")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"resize": [450, 448]},
            r"450x448 are no whole number of the 14x14 .*resize: \[448, 448\] or \[462, 448\]",
        ),
        ({"resize": 512, "crop": 450}, r"450x450 are no whole number .*write crop: 448 or 462"),
        ({"resize": [8, 8]}, r"write resize: \[14, 14\]"),
    ],
)
def test_sizes_that_are_no_whole_number_of_patches_name_the_nearest(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Extractor.model_validate({"backbone": "vit_small_patch14_dinov2.lvd142m", "taps": ["blocks.8"], **given})
    with pytest.raises(ValueError, match=r"70x64 .*16x16 patches of xcit_nano_12_p16_224: write resize: \[64, 64\] or"):
        Backbone(_model("test_vit", {}), _extractor("xcit_nano_12_p16_224", ["blocks.1"], (70, 64)), "cpu")


@pytest.mark.parametrize(
    ("name", "taps", "message"),
    [
        ("test_vit", ["blocks.7"], r"has no 'blocks.7'; its feature stages are: blocks.0 \(/16\)"),
        ("test_vit", ["norm"], r"'norm' gives \(1, 101, 64\) .*tokens are read of feature stages alone"),
        ("test_vit", ["fc_norm"], r"'fc_norm' gives \(1, 64\) .*no map"),
        ("crossvit_tiny_240", ["blocks.0"], "'blocks.0' is no feature stage of its own in CrossVit, .*: none, so take"),
    ],
)
def test_a_tap_behind_the_pooling_or_without_places_is_refused(name: str, taps: list[str], message: str) -> None:
    size = 240 if name.startswith("crossvit") else 160
    with pytest.raises(ValueError, match=message):
        Backbone.load(_extractor(name, taps, (size, size)))


@pytest.mark.parametrize(
    ("name", "taps", "message"),
    [
        ("test_vit2", ["blocks.1"], "test_vit2 has no final norm that timm applies to blocks.1"),
        ("test_resnet", ["/8"], "test_resnet has no final norm that timm applies to layer2"),
        ("test_vit", ["patch_embed.proj"], "'patch_embed.proj' is no feature stage of its own"),
    ],
)
def test_a_norm_that_nothing_would_apply_is_refused(name: str, taps: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone.load(_extractor(name, taps, (160, 160), norm=True))


def test_only_a_norm_changes_the_identity() -> None:
    plain = _extractor("test_vit", ["blocks.1"], (64, 64)).identity()
    assert "norm" not in plain
    assert _extractor("test_vit", ["blocks.1"], (64, 64), norm=True).identity() == plain | {"norm": True}


def test_tiles_of_a_transformer_take_its_patches_for_the_reduction() -> None:
    tiled = _extractor("vit_small_patch14_dinov2", ["blocks.8"], (112, 84), tiles={"size": 56, "overlap": 28})
    assert tiled.reductions == (14,)
    backbone = Backbone(_model("vit_small_patch14_dinov2", REGISTERS | {"depth": 9}), tiled, "cpu")
    assert backbone.tap_shapes == [(24, 8, 6)]
    with pytest.raises(ValueError, match=r"tiles.size 60 is no multiple of 14"):
        _extractor("vit_small_patch14_dinov2", ["blocks.8"], (112, 84), tiles={"size": 60, "overlap": 28})


def test_a_graph_gives_the_maps_of_a_transformer() -> None:
    taps = ["blocks.0", "blocks.1", "class_token"]
    extractor = _extractor("vit_tiny_patch16_224", taps, (64, 96), norm=True)
    network = TapNetwork(_model("vit_tiny_patch16_224", VIT), extractor)
    expected = Backbone(_model("vit_tiny_patch16_224", VIT), extractor, "cpu").extract(_images(1, (64, 96)))
    for each, own in zip(network(_images(1, (64, 96))), expected, strict=True):
        torch.testing.assert_close(each, own, rtol=1e-5, atol=1e-5)
