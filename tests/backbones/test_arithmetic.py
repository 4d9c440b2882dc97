"""What a precision lets PyTorch do, and where it is refused."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ad_assets.backbones.arithmetic import float32_as
from ad_assets.backbones.backbone import Backbone
from ad_assets.backbones.extractor import Extractor

RANDOM: dict[str, Any] = {"backbone": "resnet18", "weights": "random(0)", "taps": ["layer1"], "resize": [32, 32]}


@pytest.fixture
def products() -> Iterator[Any]:
    """PyTorch's settings of matrix products on CUDA, restored."""
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    yield matmul
    matmul.fp32_precision = before


def test_tf32_on_a_cpu_is_refused_since_it_would_be_float32() -> None:
    with pytest.raises(ValueError, match=r"precision: tf32 is .* of CUDA devices, .* write precision: float32"):
        Backbone.load(Extractor(**RANDOM, precision="tf32"))


@pytest.mark.parametrize(
    ("precision", "rounded"), [("float32", False), ("tf32", True), ("float16", False), ("bfloat16", False)]
)
@pytest.mark.parametrize("allowed", ["none", "tf32"])
def test_tf32_is_computed_where_it_is_asked_for_alone(
    precision: Any, rounded: bool, allowed: str, products: Any
) -> None:
    products.fp32_precision = allowed  # by the process, for whatever else it computes
    before = torch.backends.cudnn.allow_tf32
    with float32_as(precision):
        assert torch.backends.cudnn.allow_tf32 == rounded
        assert torch.backends.cudnn.deterministic
        assert (products.fp32_precision == "tf32") == rounded
    assert (torch.backends.cudnn.allow_tf32, products.fp32_precision) == (before, allowed)


@pytest.mark.parametrize(
    ("precision", "training"),
    [("float32", "float32"), ("tf32", "float32"), ("float16", "float32"), ("bfloat16", "bfloat16")],
)
def test_what_trains_on_features_rounds_its_products_to_bfloat16_at_most(precision: Any, training: str) -> None:
    assert Extractor(**RANDOM, precision=precision).training_precision == training


def test_features_of_each_precision_have_an_address_of_their_own() -> None:
    identities = [Extractor(**RANDOM, precision=each).identity() for each in ("float32", "tf32", "float16", "bfloat16")]
    assert len({str(identity) for identity in identities}) == len(identities)
