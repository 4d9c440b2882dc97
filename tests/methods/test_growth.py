"""States that grow: matches that were kept and merged are those of a search of the whole state, whatever came when."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from ad_assets.methods import Features, Matches, Method, Runtime, State
from ad_assets.methods.data import by_image, together
from ad_assets.methods.growth import match_grown
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.memory_bank.growth import GrownRows
from tests.support.method_lanes import configured
from tests.support.tap_features import tap_features

RUNTIME = Runtime(memory_gb=0.5)
IMAGES = 12
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "patchcore": ("patchcore", {}),
    "patchcore all": ("patchcore", {"coreset_ratio": 1.0, "neighbours": 3}),
    "patchcore same image": ("patchcore", {"exclude_same_image": True}),
    "patchcluster": ("patchcluster", {}),
    "patchcore_lof": ("patchcore_lof", {}),
    "anomalydino": ("anomalydino", {"coreset_ratio": 1.0}),
    "superadd": ("superadd", {"max_rows": None, "subsets": None}),
    "hetmm": ("hetmm", {"sheets": None}),
    "hetmm patches": ("hetmm", {"sheets": None, "matching": "patch"}),
    "spade": ("spade", {"neighbours": 3}),
    "spade all": ("spade", {"neighbours": 50, "pixel_neighbours": 3}),
    "rad": ("rad", {"neighbours": 3}),
    "rad all": ("rad", {"neighbours": 50}),
    "rad anywhere": ("rad", {"neighbours": 50, "radius": None}),
}


def drawn(seed: int, *, coarse: bool) -> Features:
    """Twelve images; coarse values have many equal distances, and images that are copies."""
    generator = torch.Generator().manual_seed(seed)
    taps = [torch.randn(IMAGES, 4, 4, 4, generator=generator), torch.randn(IMAGES, 6, 2, 2, generator=generator)]
    if coarse:
        taps = [tap.round().clamp(-1, 1) + 0.5 for tap in taps]
        for tap in taps:
            tap[5], tap[9] = tap[1], tap[2]
    return tap_features(taps, batch_size=5)


def only(features: Features, ids: set[str]) -> Features:
    return replace(features, image_ids=tuple(sorted(ids)))


def matched(method: Method[Any], state: State, images: Features, *, left_out: bool) -> dict[str, Matches]:
    found: dict[str, Matches] = {}
    for ids, matches in method.match(state, images, RUNTIME, left_out=left_out):
        found |= by_image(ids, matches)
    return found


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_matches_that_were_kept_are_those_of_a_search_of_all_whatever_came_when(name: str, coarse: bool) -> None:
    method, random = configured(*METHODS[name]), Random(f"{name} {coarse}")  # noqa: S311
    features = drawn(random.randrange(1000), coarse=coarse)
    order = random.sample(features.image_ids, IMAGES)
    steps = [set(order[:size]) for size in sorted({4, *random.sample(range(5, IMAGES + 1), 3)})]
    earlier, before = method.fit(only(features, steps[0]), RUNTIME), steps[0]
    state = method.prepare(earlier, only(features, before), RUNTIME)
    known = {
        False: matched(method, state, features, left_out=False),
        True: matched(method, state, only(features, before), left_out=True),
    }
    for now in steps[1:]:
        train, new = only(features, now), only(features, now - before)
        fitted = method.update(earlier, new, RUNTIME) if method.updatable else method.fit(train, RUNTIME)
        state = method.prepare(fitted, train, RUNTIME)
        growth = method.growth(state, earlier, RUNTIME)
        assert growth is not None
        assert growth.added == now - before
        for left_out, images in ((False, features), (True, train)):
            load = partial(_together, known[left_out])
            match = partial(method.match, state, runtime=RUNTIME, left_out=left_out)
            found = match_grown(growth, images, known[left_out].keys(), load, match, left_out=left_out)
            merged = {image: own for ids, matches in found for image, own in by_image(ids, matches).items()}
            whole = matched(method, state, images, left_out=left_out)
            _assert_same(name, whole, merged, any_rows=left_out and coarse)
            known[left_out] = merged  # a chain: the next step rests on what was merged
        earlier, before = fitted, now


@pytest.mark.parametrize("name", ["patchcore all", "hetmm", "spade", "rad", "rad all"])
def test_a_state_without_a_group_of_images_grows_as_the_whole_one_does(name: str) -> None:
    method, features = configured(*METHODS[name]), drawn(11, coarse=False)
    order = list(features.image_ids)
    group, before, now = {order[0], order[4]}, set(order[:9]), set(order)
    fits = [method.fit(only(features, ids), RUNTIME) for ids in (before, now)]
    prepared = [method.prepare(fit, only(features, ids), RUNTIME) for fit, ids in zip(fits, (before, now), strict=True)]
    old, new = (
        method.without(state, group, only(features, ids), RUNTIME)
        for state, ids in zip(prepared, (before, now), strict=True)
    )
    growth = method.growth(new, method.without(fits[0], group, only(features, before), RUNTIME), RUNTIME)
    assert growth is not None
    assert growth.added == now - before
    images = only(features, group)
    known = matched(method, old, images, left_out=False)
    match = partial(method.match, new, runtime=RUNTIME)
    found = match_grown(growth, images, known, partial(_together, known), match)
    merged = {image: own for ids, matches in found for image, own in by_image(ids, matches).items()}
    _assert_same(name, matched(method, new, images, left_out=False), merged, any_rows=False)


def _together(known: dict[str, Matches], ids: Sequence[str]) -> Matches:
    return together(ids, known)


def _assert_same(name: str, whole: dict[str, Matches], merged: dict[str, Matches], *, any_rows: bool) -> None:
    """`any_rows`: rows left and right of one's own are searched apart, and joined by float32, which ties break."""
    assert list(whole) == list(merged)
    for image, matches in whole.items():
        assert matches.keys() == merged[image].keys()
        for part, own in matches.items():
            if name.startswith(("hetmm", "rad")):  # products of other sizes may round otherwise
                torch.testing.assert_close(merged[image][part], own, rtol=0, atol=1e-6)
            elif part != "rows" or not (any_rows or name.startswith("spade")):
                assert torch.equal(merged[image][part], own), (image, part)


def test_a_bank_that_lost_a_row_or_has_another_has_not_grown() -> None:
    method, features = configured("patchcore", {}), drawn(3, coarse=False)
    everything = set(features.image_ids)
    old = method.fit(only(features, everything - {"image-3"}), RUNTIME)
    new = method.update(old, only(features, {"image-3"}), RUNTIME)
    assert method.growth(new, old, RUNTIME) is not None
    changed = new.rows.clone()
    changed[2, 1] += 1e-3
    assert method.growth(replace(new, rows=changed), old, RUNTIME) is None
    assert method.growth(method.fit(only(features, everything), RUNTIME), old, RUNTIME) is None
    assert method.growth(old, new, RUNTIME) is None
    assert method.growth(replace(new, place=new.place.flip(0)), old, RUNTIME) is None
    assert configured("hetmm", {}).growth(*(configured("hetmm", {}).fit(features, RUNTIME),) * 2, RUNTIME) is None


@pytest.mark.parametrize("depth", [1, 4])
def test_rows_are_merged_as_one_list_of_all_distances_is_sorted(depth: int) -> None:
    generator = torch.Generator().manual_seed(depth)
    rows = torch.randint(0, 3, (40, 2), generator=generator).float()  # of nine kinds: most distances are equal
    patches = torch.randint(0, 3, (30, 2), generator=generator).float()
    source = torch.arange(40) // 4
    names = [f"image-{number}" for number in range(10)]
    bank = MemoryBank(rows, source, torch.arange(40) % 4, names, [2, 2], 0.0)
    stays = source % 3 != 1
    earlier = bank.without([name for number, name in enumerate(names) if number % 3 == 1], RUNTIME)
    grown = GrownRows.of(bank, earlier, RUNTIME)
    assert grown is not None
    few = _sorted(patches, earlier.rows)
    distances, found = grown.merged(patches, few[0][:, :depth].float(), few[1][:, :depth])
    expected = _sorted(patches, rows)
    assert torch.equal(distances, expected[0][:, :depth].float())
    assert torch.equal(found, expected[1][:, :depth])
    assert int(stays.sum()) == len(earlier.rows)


def _sorted(patches: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    return (patches.double()[:, None] - rows.double()).norm(dim=2).sort(dim=1, stable=True)
