"""How many nominal images fit the budget is told by the rule that refuses one more."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ad_assets.methods import METHODS, Runtime
from ad_assets.methods.memory_bank.patch_bank import PatchBank
from tests.support.tap_features import tap_features

PATCHES = {"pre_dimensions": 6, "dimensions": 6}
FOD = {"widths": (4, 4), "heads": 1, "depth": 1, "epochs": 1}
BOUNDED: list[tuple[str, dict[str, Any]]] = [
    ("patchcore", PATCHES),
    ("patchcore", {"pooling": "concat", "stride": 2}),
    ("patchcluster", PATCHES),
    ("patchcore_lof", PATCHES),
    ("anomalydino", {}),
    ("hetmm", {"windows": (3, 1)}),
    ("hetmm", {"windows": (3, 1), "sheets": 2}),
    ("hetmm", {"windows": (3, 1), "sheets": 9}),
    ("spade", {}),
    ("spade", {"pixel_layers": 1}),
    ("rad", {}),
    ("superadd", {"max_rows": 5, "subsets": 1}),
    ("superadd", {"max_rows": None}),
    ("fod", {**FOD, "reference": "nearest"}),
    ("fod", {**FOD, "reference": "coreset", "held_out": 0.3}),
]
UNBOUNDED: list[tuple[str, dict[str, Any]]] = [("fod", FOD), ("padim", {}), ("simplenet", {})]
TAPS = [torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(8, 6, 2, 2)]
SAMPLE = [tap[:1] for tap in TAPS]


def lane(name: str, options: dict[str, Any], images: int, runtime: Runtime) -> None:
    """A fit of so many images, and what is read before they score."""
    method = METHODS[name](**options)
    features = tap_features([tap[:images] for tap in TAPS])
    state = method.fit(features, runtime)
    if not isinstance(method, PatchBank):
        method.prepare(state, features, runtime)


@pytest.mark.parametrize(("name", "options"), BOUNDED)
def test_so_many_images_are_taken_and_one_more_is_refused(name: str, options: dict[str, Any]) -> None:
    method = METHODS[name](**options)
    among_a_gigabyte = method.most_images(SAMPLE, Runtime())
    assert among_a_gigabyte is not None
    runtime = Runtime(memory_gb=5.4 / among_a_gigabyte)
    most = method.most_images(SAMPLE, runtime)
    assert most is not None
    assert 3 <= most <= 6
    lane(name, options, most, runtime)
    with pytest.raises(ValueError, match=r"the budget is .*: raise compute\.memory_gb"):
        lane(name, options, most + 1, runtime)


@pytest.mark.parametrize(("name", "options"), UNBOUNDED)
def test_what_does_not_grow_with_the_images_has_no_bound(name: str, options: dict[str, Any]) -> None:
    assert METHODS[name](**options).most_images(SAMPLE, Runtime()) is None


def test_every_method_says_which_it_is() -> None:
    assert {name for name, _ in BOUNDED + UNBOUNDED} == set(METHODS)


def test_a_bank_of_wide_resnet_patches_takes_as_many_as_it_did() -> None:
    taps = [torch.empty(1, 512, 28, 28, device="meta"), torch.empty(1, 1024, 14, 14, device="meta")]
    assert METHODS["patchcore"]().most_images(taps, Runtime(memory_gb=4)) == 1245
