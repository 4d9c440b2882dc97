"""One entry of ``extractors:``: every fault at load, and an identity that is exactly what changes features."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ad_assets.backbones.extractor import Extractor

RESNET: dict[str, Any] = {
    "backbone": "wide_resnet50_2.tv_in1k",
    "taps": ["layer2", "layer3"],
    "resize": 256,
    "crop": 224,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taps": ["layer2", "layer5"]}, r"has no 'layer5'; choose from: act1, layer1, .*layer4, /2, /4, .*/32"),
        ({"taps": ["/64"]}, "has no '/64'; choose from"),
        ({"taps": ["layer3", "layer2"]}, "shallow to deep; wide_resnet50_2 goes act1, layer1"),
        ({"taps": ["layer2", "/8"]}, "name one module twice"),
        ({"taps": ["layer2;x"]}, "neither a module path such as layer2 nor a reduction"),
        ({"taps": []}, "taps"),
        ({"crop": None}, r"sizes would differ between images: write resize: \[256, 256\] or add crop"),
        ({"crop": 288}, r"288 is larger than the resized image \(256\)"),
        ({"resize": [300, 200]}, r"224 is larger than the resized image \(200\)"),
        ({"resize": 0}, "greater than or equal to 1"),
        ({"interpolation": "nearest"}, "'bilinear', 'bicubic' or 'lanczos'"),
        ({"weights": "bundled"}, "exist for tf_efficientnet_lite0, .* only, not for wide_resnet50_2"),
        ({"weights": "random"}, "unknown weights 'random'; allowed: 'bundled'"),
        ({"weights": "random(x)"}, "unknown weights"),
        ({"weights": "/no/such/file.safetensors"}, "no such file or folder"),
        ({"backbone": "wide_resnet50_2"}, "exact tag, as in wide_resnet50_2.tv_in1k"),
        ({"backbone": "wide resnet"}, "backbone"),
        ({"std": [0.2, 0.2, 0]}, "greater than 0"),
        ({"colour": "rgb"}, "Extra inputs"),
    ],
)
def test_faults_name_the_key_and_the_remedy(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Extractor.model_validate(RESNET | change)


def test_weight_paths(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"holds none of wide_resnet50_2.tv_in1k.safetensors, wide"):
        Extractor(**RESNET, weights=str(tmp_path))
    (tmp_path / "weights.bin").write_bytes(b"1")
    with pytest.raises(ValidationError, match=r"ends in .safetensors or .pth"):
        Extractor(**RESNET, weights=str(tmp_path / "weights.bin"))
    file = tmp_path / "wide_resnet50_2.pth"
    file.write_bytes(b"1")
    assert Extractor(**RESNET, weights=str(tmp_path)).weight_file == file
    assert Extractor(**RESNET, weights=str(file)).weight_file == file


def test_sizes() -> None:
    assert Extractor(**RESNET).input_size == (224, 224)
    assert Extractor(**RESNET).geometry == (256, 224)
    exact = Extractor(**RESNET | {"resize": [192, 256], "crop": None})
    assert exact.input_size == exact.geometry[0] == (192, 256)


def test_spellings_of_one_extractor_share_an_identity() -> None:
    plain = Extractor(**RESNET).identity()
    explicit = {"taps": ["/8", "/16"], "mean": [0.485, 0.456, 0.406], "weights": "hub", "interpolation": "bilinear"}
    assert Extractor(**RESNET | explicit).identity() == plain
    lite: dict[str, Any] = {"weights": "bundled", "taps": ["blocks.2"], "resize": [64, 64]}
    tagged, untagged = (
        Extractor(backbone=name, **lite).identity() for name in ("tf_efficientnet_lite0.in1k", "tf_efficientnet_lite0")
    )
    assert tagged == untagged
    assert untagged["mean"] == untagged["std"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "wide_resnet50_2.racm_in1k"},
        {"weights": "random(0)"},
        {"weights": "random(1)"},
        {"taps": ["layer2"]},
        {"pre_activation": True},
        {"resize": [256, 256]},
        {"crop": 256},
        {"interpolation": "lanczos"},
        {"std": [0.229, 0.256, 0.225]},
    ],
)
def test_what_changes_features_changes_the_identity(change: dict[str, Any]) -> None:
    others = [Extractor(**RESNET), Extractor(**RESNET | {"weights": "random(2)"})]
    assert Extractor(**RESNET | change).identity() not in [other.identity() for other in others]


def test_local_weights_count_by_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a.pth", tmp_path / "b.pth"
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    one, two = Extractor(**RESNET, weights=str(first)), Extractor(**RESNET, weights=str(second))
    assert one.identity() == two.identity()
    assert str(tmp_path) not in str(one.identity())
    second.write_bytes(b"retrained")
    assert one.identity() != two.identity()
    second.unlink()
    with pytest.raises(FileNotFoundError, match=r"b.pth is gone"):
        two.identity()


def test_reading_an_extractor_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys; from ad_assets.backbones.extractor import Extractor; "
        "Extractor(backbone='tf_efficientnet_lite0', weights='bundled', taps=['/8'], resize=256, crop=224).identity(); "
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _identity(backbone: str, tap: str) -> dict[str, Any]:
    return Extractor(backbone=backbone, weights="random(0)", taps=[tap], resize=[64, 64]).identity()


@pytest.mark.parametrize(
    ("backbone", "tap"),
    [
        ("swin_tiny_patch4_window7_224", "/8"),
        ("swin_s3_tiny_224", "layers.1"),
        ("swinv2_tiny_window8_256", "layers.1"),
        ("mambaout_tiny", "stages.1"),
        ("sequencer2d_s", "stages.1"),
        ("hieradet_small", "blocks.2"),
        ("sam2_hiera_tiny", "blocks.2"),
        ("samvit_base_patch16", "blocks.2"),
        ("volo_d1_224", "network.0"),
        ("swinv2_cr_tiny_224", "stages.1.blocks.0"),
        ("tiny_vit_5m_224", "stages.1.blocks"),
        ("gcvit_tiny", "stages.1.blocks.0"),
        ("convnext_tiny", "stages.1.blocks.0.mlp"),
        ("convnext_tiny", "stages.1.blocks.0.mlp.fc1"),
        ("maxvit_tiny_tf_224", "stages.1.blocks.0.attn_grid"),
        ("pvt_v2_b0", "stages.1.downsample"),
        ("nest_tiny", "levels.1.pool.norm"),
        ("vit_tiny_patch16_224", "patch_embed"),
    ],
)
def test_features_of_maps_that_were_misread_are_not_found_again(backbone: str, tap: str) -> None:
    assert _identity(backbone, tap)["layout"] == "NCHW"


@pytest.mark.parametrize(
    ("backbone", "tap"),
    [
        ("tf_efficientnet_lite0", "blocks.2"),
        ("resnet18", "layer1.0.act1"),
        ("seresnext50_32x4d", "act1"),
        ("densenet121", "features.norm5"),
        ("xception41", "blocks.1.stack.act3"),
        ("convnext_tiny", "stages.1.blocks.0"),
        ("convnext_tiny", "/8"),
        ("swinv2_cr_tiny_224", "stages.1"),
        ("gcvit_tiny", "stages.1"),
        ("tiny_vit_5m_224", "stages.1"),
        ("maxvit_tiny_tf_224", "stages.1"),
        ("vit_tiny_patch16_224", "patch_embed.proj"),
    ],
)
def test_features_of_maps_that_were_read_rightly_stay_found(backbone: str, tap: str) -> None:
    assert "layout" not in _identity(backbone, tap)
