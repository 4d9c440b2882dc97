"""What a fit needs is told from shapes alone, by the rules that refuse, hold, or lay down in temporary files."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from ad_assets.kernels import proxies, scratch
from ad_assets.methods import METHODS, Runtime
from ad_assets.methods.needs import Needs, disk_warning, growth_warning, most_images
from tests.support.method_lanes import SMALL, configured, lane, tensors, tiny_images

TAPS = [torch.empty(1, 512, 28, 28, device="meta"), torch.empty(1, 1024, 14, 14, device="meta")]  # WideResNet50, 224 px


def most(name: str, memory_gb: float, **options: Any) -> int | None:
    method = METHODS[name](**options)
    return most_images(lambda images: method.needs(TAPS, images), memory_gb)


def test_so_many_images_are_taken_and_one_more_is_refused() -> None:
    method = configured("patchcore", {"coreset_ratio": 0.3, "projection": 4})
    images = tiny_images()
    count = most_images(lambda images: method.needs(images_taps(), images), 2.9e-6)
    assert count == 3
    tight = Runtime(memory_gb=2.9e-6)
    method.fit(images.nominal, tight)
    every = images.nominal.image_ids + images.new.image_ids
    more = type(images.nominal)(every, images.nominal.load, 2)
    with pytest.raises(ValueError, match=r"the bounds of the selection need .*: raise compute.*\(parts: 2\)"):
        method.fit(more, tight)
    parted = configured("patchcore", {"coreset_ratio": 0.3, "projection": 4, "parts": 2})
    assert most_images(lambda images: parted.needs(images_taps(), images), 2.9e-6) > count


def images_taps() -> list[torch.Tensor]:
    return tiny_images().nominal.sample()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("patchcore", {}, 55_456),  # were 1,245
        ("patchcore", {"coreset_ratio": 0.01, "parts": 16}, 607_400),
        ("patchcore", {"coreset_ratio": 1.0}, None),
        ("patchcore", {"subsampling": "random"}, None),
        ("patchcluster", {"subsampling": "proxies"}, None),
        ("patchcore_lof", {}, None),
        ("spade", {}, None),
        ("rad", {}, None),
        ("superadd", {}, None),
        ("hetmm", {"windows": (3, 1)}, None),  # were 545
        ("hetmm", {"windows": (3, 1), "sheets": 60}, 11_180),
        ("hetmm", {"windows": (3, 1), "sheets": 60, "selection": "pixel_random"}, None),
        ("padim", {}, None),
        ("fod", {"reference": "nearest"}, None),
        ("simplenet", {}, None),
    ],
)
def test_how_many_images_four_gigabytes_take(name: str, options: dict[str, Any], expected: int | None) -> None:
    found = most(name, 4.0, **options)
    assert found == expected or found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in SMALL), ("hetmm", {"sheets": None})])
def test_the_state_is_as_large_as_told(name: str, options: dict[str, Any]) -> None:
    method = configured(name, options)
    state = method.fit(tiny_images().nominal, Runtime())
    told = method.needs(images_taps(), 3).stored
    if told:
        tensors = [tensor.nbytes for key, tensor in state.tensors().items() if not key.startswith("clusters")]
        assert told == sum(tensors)


def test_needs_are_told_by_where_they_lie() -> None:
    needs = Needs({"bounds": 1_000}, {"rows": 3_000, "seen": 500}, {"patches": 9_000}, 3_000)
    assert [(needs.memory(gb), needs.disk(gb), needs.fits(gb)) for gb in (1e-5, 2e-6, 1e-7)] == [
        (13_500, 0, True),
        (1_500, 3_000, True),
        (1_000, 3_500, False),
    ]


def test_a_budget_warns_from_four_fifths_on() -> None:
    assert growth_warning(80, 100) == ""
    assert "81 nominal images, and 100 are the most" in growth_warning(81, 100)
    assert "101 will be refused" in growth_warning(100, 100)
    assert "so the next fit of all, or scoring, is refused" in growth_warning(101, 100)


def test_a_disk_without_room_is_told_of_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = Needs(held={"rows": 8 * 10**9})
    assert disk_warning(needs, 10, 1, "/scratch") == ""  # in main memory
    assert disk_warning(needs, 4, 8 * 10**9, "/scratch") == ""
    assert "keeps 8 GB in temporary files, and /scratch has 7 GB left" in disk_warning(needs, 4, 7 * 10**9, "/scratch")

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch.os, "posix_fallocate", full)
    method = configured("patchcore", {"coreset_ratio": 1.0})
    with pytest.raises(ValueError, match=r"the patches need 1.15e-06 GB on disk, .* has .*TMPDIR"):
        method.fit(tiny_images().nominal, Runtime(memory_gb=1e-6))


# Of each a part is beyond so many bytes an image, and what cannot lie in a temporary file is not.
BEYOND: list[tuple[str, dict[str, Any], float]] = [
    ("patchcore", {"coreset_ratio": 0.3, "projection": 4}, 1.2e3),
    ("patchcore", {"coreset_ratio": 0.3, "projection": None, "anchors": "official"}, 2.1e3),
    ("patchcore", {"coreset_ratio": 0.3, "projection": 4, "preselect": 0.6}, 0.8e3),
    ("patchcore", {"coreset_ratio": 0.3, "projection": 4, "parts": 2}, 1.0e3),
    ("patchcore", {"subsampling": "random"}, 0.1e3),
    ("patchcore", {"subsampling": "proxies"}, 2.0e3),
    ("patchcore", {"coreset_ratio": 1.0, "skip": "self"}, 0.5e3),
    ("patchcluster", {"coreset_ratio": 1.0}, 0.1e3),
    ("patchcore_lof", {}, 0.1e3),
    ("anomalydino", {}, 0.1e3),
    ("spade", {}, 0.1e3),
    ("rad", {}, 0.1e3),
    ("superadd", {}, 0.1e3),
    ("superadd", {"max_rows": None, "subsets": None}, 0.1e3),
    ("hetmm", {"sheets": None}, 0.1e3),
    ("hetmm", {}, 0.2e3),
    ("fod", {"reference": "nearest"}, 0.1e3),
    ("fod", {"reference": "coreset"}, 0.1e3),
]
WIDE = {"pre_dimensions": 40, "dimensions": 40}


@pytest.mark.parametrize(("name", "options", "bytes_each"), BEYOND)
def test_no_number_depends_on_the_budget(
    name: str, options: dict[str, Any], bytes_each: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_down = []
    plain = scratch.mapped

    def mapped(shape: tuple[int, ...], dtype: torch.dtype, what: str) -> torch.Tensor:
        laid_down.append(what)
        return plain(shape, dtype, what)

    monkeypatch.setattr(scratch, "mapped", mapped)
    monkeypatch.setattr(proxies, "learned_proxies", partial(proxies.learned_proxies, steps=20))
    wide = WIDE if name.startswith("patchc") else {}
    method = configured(name, {**options, **wide})
    images = tiny_images()
    scarce = 3 * bytes_each * 1e-9
    needs = method.needs(images.nominal.sample(), 3)
    assert needs.fits(scarce)
    assert not Needs(at_once={**needs.held, **needs.kept}).fits(scarce)
    expected = tensors(lane(method, Runtime("cpu", 1.0), images))
    assert not laid_down
    found = tensors(lane(method, Runtime("cpu", scarce), images))
    assert bool(laid_down) or not needs.disk(scarce)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if options.get("subsampling") == "proxies":  # learned from mini-batches, whose sums are split by the budget
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(one, other)
