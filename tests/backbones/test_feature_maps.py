"""Layouts of maps: channels, rows and columns are found in every layout of timm, or the tap is refused by name."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

from ad_assets.backbones.backbone import Backbone
from ad_assets.backbones.extractor import Extractor

CLASSES: dict[str, Any] = {"num_classes": 0}
SWIN: dict[str, Any] = {"img_size": 32, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": 4}
# Architecture, side of the frame, smaller options, taps of its stages; (8, 8, 8) and (16, 16, 16) are among the maps.
STAGES = [
    ("swin_tiny_patch4_window7_224", 32, SWIN, ["layers.0", "layers.1"]),
    ("swinv2_tiny_window8_256", 32, SWIN, ["layers.0", "layers.1"]),
    ("swinv2_cr_tiny_224", 32, SWIN, ["stages.0", "stages.1"]),
    ("test_mambaout", 64, {}, ["stages.0", "/8", "stages.2"]),
    ("sequencer2d_s", 56, {"layers": (1, 1, 1, 1)}, ["stages.0", "stages.1"]),
    ("hieradet_small", 64, {"embed_dim": 16, "stages": (1, 1, 1, 1), "global_att_blocks": ()}, ["blocks.0", "/8"]),
    (
        "samvit_base_patch16",
        64,
        {"img_size": 64, "embed_dim": 24, "num_heads": 2, "depth": 2},
        ["blocks.0", "blocks.1"],
    ),
    ("volo_d1_224", 64, {"img_size": 64}, ["network.0", "network.2"]),
    ("test_convnext", 96, {}, ["stages.0", "/8"]),
    ("test_resnet", 128, {}, ["layer1", "/8"]),
    ("test_efficientnet", 64, {}, ["blocks.1", "blocks.2"]),
    ("inception_v3", 128, {}, ["/4", "/8"]),
]


def _extractor(backbone: str, taps: list[str], size: tuple[int, int], **options: Any) -> Extractor:
    return Extractor.model_validate(
        {"backbone": backbone, "weights": "random(0)", "taps": taps, "resize": size, **options}
    )


def _batch(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def _by_timm(model: nn.Module, batch: torch.Tensor, shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """The maps of these shapes as timm's own interface gives them, always (B, C, h, w)."""
    with torch.inference_mode():
        maps = model.forward_intermediates(batch, intermediates_only=True, norm=False)
    return [next(each for each in maps if each.shape[1:] == shape) for shape in shapes]


@pytest.mark.parametrize(
    ("name", "side", "options", "taps"), STAGES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_maps_of_every_layout_are_those_of_timms_own_interface(
    name: str, side: int, options: dict[str, Any], taps: list[str]
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, **CLASSES, **options).eval()
    backbone = Backbone(copy.deepcopy(model), _extractor(name, taps, (side, side)), "cpu")
    stages = {stage["module"]: stage for stage in model.feature_info} | {
        f"/{stage['reduction']}": stage for stage in model.feature_info
    }
    for tap, (channels, height, width) in zip(taps, backbone.tap_shapes, strict=True):
        assert channels == stages[tap]["num_chs"]
        assert height == width
        assert abs(height - side / stages[tap]["reduction"]) <= 4
    batch = _batch(side, side)
    found = backbone.extract(batch)
    assert [each.shape[1:] for each in found] == backbone.tap_shapes
    if not hasattr(model, "forward_intermediates"):
        return
    blocks = {tap: int(tap.split(".")[1]) for tap in taps if tap.startswith("blocks.")}
    if name == "samvit_base_patch16":  # all of its blocks have one shape
        with torch.inference_mode():
            expected = model.forward_intermediates(batch, indices=list(blocks.values()), intermediates_only=True)
    else:
        expected = _by_timm(model, batch, [tuple(shape) for shape in backbone.tap_shapes])
    for each, own in zip(found, expected, strict=True):
        assert each.is_contiguous()
        torch.testing.assert_close(each, own, rtol=1e-3, atol=1e-3)


def test_a_cube_of_a_network_of_one_size_is_told_without_timms_word() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", **CLASSES, **SWIN).eval()
    extractor = _extractor("swin_tiny_patch4_window7_224", ["layers.0"], (32, 32))
    declared = Backbone(copy.deepcopy(model), extractor, "cpu")
    del model.output_fmt
    measured = Backbone(copy.deepcopy(model), extractor, "cpu")
    assert measured.tap_shapes == [(8, 8, 8)]
    with torch.inference_mode():
        own = model.layers[0](model.patch_embed(_batch(32, 32)))
    for backbone in (declared, measured):
        torch.testing.assert_close(backbone.extract(_batch(32, 32))[0], own.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(96, 160), (160, 96)])
def test_oblong_frames(size: tuple[int, int]) -> None:
    model = timm.create_model("test_mambaout").eval()
    backbone = Backbone(model, _extractor("test_mambaout", ["/4", "/8"], size), "cpu")
    assert backbone.tap_shapes == [(16, size[0] // 4, size[1] // 4), (32, size[0] // 8, size[1] // 8)]


class Turned(nn.Module):
    """Squares of 8 pixels, turned into another order of axes."""

    def __init__(self, channels: int, *order: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 8, stride=8)
        self.turn = _Turn(*order)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.turn(self.conv(x))


class _Turn(nn.Module):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, *self.order)


@pytest.mark.parametrize("channels", [5, 8])
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 64)])
@pytest.mark.parametrize("order", [(1, 2, 3), (2, 3, 1), (2, 1, 3), (1, 3, 2), (3, 2, 1), (3, 1, 2)])
def test_two_orders_of_axes_are_read_and_all_others_refused(
    channels: int, size: tuple[int, int], order: tuple[int, ...]
) -> None:
    model = Turned(channels, *order)
    extractor = _extractor("turned", ["turn"], size)
    if order in ((1, 2, 3), (2, 3, 1)):
        backbone = Backbone(model, extractor, "cpu")
        assert backbone.tap_shapes == [(channels, size[0] // 8, size[1] // 8)]
        found = backbone.extract(_batch(*size))[0]
        torch.testing.assert_close(found, model.conv(_batch(*size)), rtol=1e-4, atol=1e-5)
        return
    with torch.inference_mode():
        shape = tuple(model(torch.zeros(1, 3, *size)).shape)
    with pytest.raises(
        ValueError, match=r"taps: 'turn' gives .* for one frame of \d+x\d+, which is not known to be a map"
    ) as told:
        Backbone(model, extractor, "cpu")
    assert str(shape) in str(told.value)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (
            ("test_vit", ["blocks.3.attn"], (160, 160)),
            r"gives \(1, 101, 64\) for one frame of 160x160, no map .*tokens .*: blocks.0, blocks.1, ..., blocks.5$",
        ),
        (("test_resnet", ["fc"], (64, 64)), r"gives \(1, 1000\) for one frame of 64x64, no map"),
        (
            ("cait_xxs24_224", ["blocks.1.attn.proj_l"], (224, 224)),
            r"gives \(1, 196, 196, 4\) .* which is not known to be a map",
        ),
    ],
)
def test_what_is_no_map_is_refused_with_its_shape(options: tuple[Any, ...], given: str) -> None:
    with pytest.raises(ValueError, match=given):
        Backbone.load(_extractor(*options))


@pytest.mark.parametrize(
    ("fact", "value"), [("num_chs", 64), ("reduction", 32), ("output_fmt", "NCHW")], ids=lambda value: str(value)
)
def test_a_map_that_timm_declares_otherwise_is_refused(fact: str, value: Any) -> None:
    model = timm.create_model("test_mambaout").eval()
    if fact == "output_fmt":
        model.output_fmt = value
    else:
        model.feature_info[0][fact] = value
    with pytest.raises(
        ValueError, match=r"'stages.0' gives \(1, 40, 40, 16\) .*read as 16 channels of 40x40 .*declares"
    ):
        Backbone(model, _extractor("test_mambaout", ["stages.0"], (160, 160)), "cpu")


@pytest.mark.parametrize("backbone", ["hiera_tiny_224", "swin_tiny_patch4_window7_224"])
def test_a_network_of_another_size_names_both_sizes_and_the_remedy(backbone: str) -> None:
    tap = "patch_embed.proj"
    with pytest.raises(
        ValueError, match=rf"{backbone} fails at images of 256x240 .*made for 224x224: write resize: \[224, 224\]"
    ):
        Backbone.load(_extractor(backbone, [tap], (256, 240)))


class Failing(nn.Module):
    """A network that fails at whatever it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.tap = nn.Conv2d(3, 2, 3)
        self.error = error

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [AssertionError(), RuntimeError("shape '[1, 7]'"), TypeError("odd"), IndexError("odd"), ZeroDivisionError()],
)
def test_whatever_a_network_raises_is_told_with_the_size(error: Exception) -> None:
    with pytest.raises(
        ValueError, match=f"failing fails at images of 64x64 .*({error}|{type(error).__name__})".replace("[", r"\[")
    ):
        Backbone(Failing(error), _extractor("failing", ["tap"], (64, 64)), "cpu")


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_is_gone_is_no_matter_of_the_size(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        Backbone(Failing(error), _extractor("failing", ["tap"], (64, 64)), "cpu")
    assert raised.value is error


def test_a_module_that_is_called_twice_is_no_tap() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x))

    with pytest.raises(ValueError, match="calls conv more than once"):
        Backbone(Twice(), _extractor("twice", ["conv"], (64, 64)), "cpu")
