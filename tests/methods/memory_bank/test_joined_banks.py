"""Banks of several categories as one, against a bank of all images and against scores of each bank alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ad_assets.methods import Batch, Features, Method, Runtime
from ad_assets.methods.memory_bank.anomalydino import AnomalyDino
from ad_assets.methods.memory_bank.lof import PatchCoreLof
from ad_assets.methods.memory_bank.patchcluster import PatchCluster
from ad_assets.methods.memory_bank.patchcore import PatchCore
from ad_assets.methods.memory_bank.superadd import SuperAdd
from ad_assets.methods.padim import Padim
from ad_assets.methods.state import State

RUNTIME, SIZE = Runtime(), (24, 24)
BARE = {"pooling": "concat", "patch_size": 1}
IDS = tuple(f"{number}{letter}" for letter in "abc" for number in range(3))  # three categories, mixed when sorted
TAPS = torch.randn(9, 5, 6, 6, generator=torch.Generator().manual_seed(0))


def features(*ids: str) -> Features:
    return Features(tuple(sorted(ids)), lambda wanted, _: [TAPS[[IDS.index(each) for each in wanted]]])


CATEGORIES = [features(*IDS[first : first + 3]) for first in (0, 3, 6)]


def assert_equal(one: State, other: State) -> None:
    assert one.info() == other.info()
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())


@pytest.mark.parametrize(
    "method",
    [PatchCore(**BARE, coreset_ratio=1), AnomalyDino(), PatchCluster(coreset_ratio=1), SuperAdd(max_rows=None)],
    ids=lambda method: method.name,
)
def test_whole_banks_are_the_bank_of_all_images_in_any_order(method: Method[Any]) -> None:
    banks = [method.fit(each, RUNTIME) for each in CATEGORIES]
    expected = method.fit(features(*IDS), RUNTIME)
    assert_equal(method.join(banks), expected)
    assert_equal(method.join(banks[::-1]), expected)
    assert_equal(method.join([method.join(banks[:2]), banks[2]]), expected)


def test_an_image_that_two_categories_learnt_is_one_and_is_left_out_whole() -> None:
    method = PatchCore(**BARE, coreset_ratio=1)
    banks = [method.fit(features(*ids), RUNTIME) for ids in (("0a", "1a", "2b"), ("2b", "0c"))]
    joint = method.join(banks)
    assert_equal(joint, method.fit(features("0a", "1a", "2b", "0c"), RUNTIME))
    batch = Batch(features("2b").load(["2b"], None), SIZE, ["2b"], left_out=True)
    others = method.fit(features("0a", "1a", "0c"), RUNTIME)
    expected = method.score(others, replace(batch, left_out=False, image_ids=None), RUNTIME)
    torch.testing.assert_close(method.score(joint, batch, RUNTIME).maps, expected.maps)
    assert_equal(joint.without(["2b"], RUNTIME), others)


@pytest.mark.parametrize("subsampling", ["greedy", "random", "proxies"])
def test_selected_rows_score_the_lowest_of_what_each_bank_says(subsampling: str) -> None:
    method = PatchCore(**BARE, coreset_ratio=0.2, subsampling=subsampling, sigma=0)  # type: ignore[arg-type]
    banks = [method.fit(each, RUNTIME) for each in CATEGORIES]
    joint = method.join(banks)
    assert len(joint.rows) == sum(len(bank.rows) for bank in banks)
    batch = Batch([TAPS[:4] + 0.1], (6, 6))
    alone = torch.stack([method.score(bank, batch, RUNTIME).maps for bank in banks])
    torch.testing.assert_close(method.score(joint, batch, RUNTIME).maps, alone.amin(dim=0))
    known = joint.source >= 0
    assert bool(known.all()) == (subsampling != "proxies")
    places = list(zip(joint.source[known].tolist(), joint.place[known].tolist(), strict=True))
    assert places == sorted(set(places))
    for source, place, row in zip(joint.source, joint.place, joint.rows, strict=True):
        if source >= 0:
            image = TAPS[IDS.index(joint.image_ids[int(source)])]
            assert torch.equal(row, image.flatten(1)[:, place])
    assert joint.covering_radius == max(bank.covering_radius for bank in banks)


def test_what_does_not_go_together_is_refused() -> None:
    method = PatchCore(**BARE, coreset_ratio=1)
    bank = method.fit(CATEGORIES[0], RUNTIME)
    for other in (replace(bank, grid=[4, 9]), replace(bank, rows=bank.rows[:, :3])):
        with pytest.raises(ValueError, match=r"\[\(.*\), \(.*\)\] cannot be joined: one extractor and one embedding"):
            method.join([bank, other])
    with pytest.raises(ValueError, match="cannot be joined"):
        method.join([])
    assert method.join_fault == PatchCluster().join_fault == ""
    assert "give a number" in PatchCluster(neighbours="images").join_fault
    thick = SuperAdd(max_rows=None).fit(CATEGORIES[0], RUNTIME)
    with pytest.raises(ValueError, match=r"banks of \[1, 2\] layers cannot be joined"):
        SuperAdd().join([thick, replace(thick, rows=thick.rows * 2)])
    with pytest.raises(ValueError, match="densities are those among all rows"):
        PatchCoreLof().join([bank])
    with pytest.raises(NotImplementedError, match="method padim has no join of what it learnt"):
        Padim().join([])
