"""Features on a GPU: the same as on the CPU, one wait a batch, and the next batch begun before that wait."""

from typing import Any

import pytest
import torch

from ad_assets.backbones.backbone import Backbone
from ad_assets.backbones.extraction import Extraction, overlapped
from ad_assets.backbones.extractor import Extractor
from tests.support.emulated_device import cuda_device

RANDOM: dict[str, Any] = {"backbone": "resnet18", "weights": "random(0)", "taps": ["layer1", "layer2"]}


def extractor(**options: Any) -> Extractor:
    return Extractor(**RANDOM | {"resize": [32, 32]} | options)


def images(count: int, *size: int) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options",
    [{}, {"precision": "tf32"}, {"precision": "float16"}, {"precision": "bfloat16"}, {"storage": "float16"}],
)
def test_a_batch_costs_one_copy_to_the_device_one_a_tap_back_and_one_wait(options: dict[str, Any]) -> None:
    whole = images(6, 32, 32)
    whole[3, 0, 0, 0] = float("nan")
    expected = Backbone.load(extractor(**{k: v for k, v in options.items() if k == "storage"})).start(whole)
    with cuda_device() as device:
        backbone = Backbone.load(extractor(**options), device=device)
        backbone.extract(backbone.stack(list(whole[:2])))
        device.counts.reset()
        batches = [(number, backbone.stack(list(batch))) for number, batch in enumerate(whole.split(2))]
        found = [(number, each.taps, each.finite) for number, each in backbone.extract_each(batches)]
        counts = device.counts.copied()
        waits = dict(device.counts.waits)
    assert [number for number, _, _ in found] == [0, 1, 2]
    assert (counts.copies_in, counts.copies_out) == (3, 3 * 3)  # two taps, and whether they are finite
    assert waits == {"synchronize": 3}
    assert counts.bytes_out == sum(tap.nbytes for tap in expected.taps) + 6
    assert [one for _, _, finite in found for one in finite] == expected.finite == [True] * 3 + [False] + [True] * 2
    for level, tap in enumerate(expected.taps):
        own = torch.cat([taps[level] for _, taps, _ in found])
        assert own.dtype == tap.dtype
        torch.testing.assert_close(own, tap, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_a_gpu_has_the_next_batch_before_the_last_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    start, wait = Backbone.start, Extraction.wait

    def started(self: Backbone, batch: torch.Tensor) -> Extraction:
        events.append("start")
        return start(self, batch)

    def waited(self: Extraction) -> None:
        events.append("wait")
        wait(self)

    monkeypatch.setattr(Backbone, "start", started)
    monkeypatch.setattr(Extraction, "wait", waited)
    batches = [(number, images(1, 32, 32)) for number in range(3)]
    with cuda_device() as device:
        for _, found in Backbone.load(extractor(), device=device).extract_each(batches):
            assert len(found.taps) == 2
    assert events == ["start", "start", "wait", "start", "wait", "wait"]
    events.clear()
    for _, found in Backbone.load(extractor()).extract_each(batches):
        assert len(found.taps) == 2
    assert events == ["start", "wait"] * 3  # a CPU has nothing to go on with


def test_tiles_are_put_together_while_the_next_are_computed() -> None:
    tiled = extractor(resize=[64, 96], tiles={"size": 32, "overlap": 16})
    batch = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = Backbone.load(tiled).start(batch)
    with cuda_device() as device:
        backbone = Backbone.load(tiled, device=device)
        device.counts.reset()
        found = backbone.start(backbone.stack(list(batch)))
        waits = dict(device.counts.waits)
    assert waits == {"synchronize": 2}  # 15 tiles are one pass
    assert found.finite == expected.finite == [True, True]
    for own, tap in zip(found.taps, expected.taps, strict=True):
        torch.testing.assert_close(own, tap, rtol=1e-4, atol=1e-4)


def test_what_is_begun_ahead_is_handed_out_in_order() -> None:
    begun: list[int] = []

    def each() -> Any:
        for number in range(5):
            begun.append(number)
            yield number

    assert [(one, len(begun)) for one in overlapped(each(), 2)] == [(0, 3), (1, 4), (2, 5), (3, 5), (4, 5)]
