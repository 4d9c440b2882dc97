"""What a GPU would be asked: launches, waits of the host, copies and memory of every method variant, step by step.

Run: ``python -m tests.benchmarks.bench_launches [--all] [--only NAME]``. No GPU is needed: counts are those of the
emulated device (tests/support/emulated_device.py), on 12 nominal, 2 new and 4 test images of 1,024 and 256 patches in
batches of 4, and of kernels on their own. Counts do not depend on the machine, and hardly on the number of channels,
which is small here. ``--all`` prints every variant instead of the methods as they are by default and a few more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import NamedTuple

import torch

from ad_assets.backbones.backbone import Backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.kernels.coreset import greedy_coreset
from ad_assets.kernels.local_matching import match
from ad_assets.kernels.nearest.all_pairs import all_pairs
from ad_assets.kernels.nearest.search import nearest
from ad_assets.methods import Runtime
from ad_assets.methods.hetmm.template_selection import select
from tests.support.device_counts import Counts
from tests.support.emulated_device import Device, cuda_device
from tests.support.method_lanes import Images, Variant, configured, images_of, lane, variants

NOMINAL, NEW, TEST, BATCH = 12, 2, 4, 4
MEMORY_GB = 1.0
# Options that suit these features, beside those of the tests.
SIZES = {
    "hetmm": {"sheets": 4, "windows": (9, 7)},
    "simplenet": {"pre_dimensions": 24, "dimensions": 48, "hidden_units": 16, "batch_size": 4},
    "fod": {"batch_size": 1, "widths": (8, 8)},
    "patchcore": {"coreset_ratio": 0.1},
    "patchcluster": {"coreset_ratio": 0.1},
}
TITLES = {
    "synchronisations": "waits",
    "copies_in": "in",
    "bytes_in": "MB in",
    "copies_out": "out",
    "bytes_out": "MB out",
    "peak_bytes": "peak MB",
}
FEW = ("patchcore skip=self", "patchcore search=ivfpq", "patchcore image_score=reweighted", "hetmm sheets=None",
       "fod reference=nearest", "patchcore subsampling=proxies", "patchcore_lof search=ivfpq")  # fmt: skip


class Row(NamedTuple):
    """What one step of something asked of the device."""

    what: str
    step: str
    counts: Counts


def images() -> Images:
    """16 x 32 x 32 and 24 x 16 x 16 of every image."""
    generator = torch.Generator().manual_seed(0)
    count = NOMINAL + NEW + TEST
    taps = [torch.randn(count, *shape, generator=generator) for shape in ((16, 32, 32), (24, 16, 16))]
    return images_of(taps, NOMINAL, NEW, BATCH, map_size=(128, 128))


def of_variant(variant: Variant, given: Images) -> Iterator[Row]:
    """The steps of a lane."""
    method = configured(variant.method, {**SIZES.get(variant.method, {}), **variant.options})
    rows = []
    with cuda_device() as device:

        def done(step: str) -> None:
            rows.append(Row(str(variant), step, device.counts.copied()))
            device.counts.reset()

        lane(method, Runtime(device, MEMORY_GB, device_memory_gb=MEMORY_GB), given, done)
    yield from (row for row in rows if row.counts.launches or row.counts.copies_in)


def of_kernels() -> Iterator[Row]:
    """Kernels and a backbone on their own."""
    generator = torch.Generator().manual_seed(0)

    def rows(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=1)

    patches, queries, bank, maps = rows(8000, 16), rows(3136, 16), rows(20000, 16), rows(4, 16, 32, 32)
    sheets = rows(60, 16, 32, 32)
    tasks: dict[tuple[str, str], Callable[[Device], object]] = {
        ("greedy coreset", "800 of 8,000"): lambda on: greedy_coreset(patches.to(on), 800),
        ("nearest", "3,136 in 20,000, k = 9"): lambda on: nearest(queries.to(on), bank.to(on), 9),
        ("all pairs", "8,000, k = 9"): lambda on: all_pairs(patches.to(on), 9),
        ("HETMM matching", "4 images, 60 sheets, 32 x 32, 9 / 7"): lambda on: match(
            maps.to(on), sheets.to(on), 9, 7, memory_gb=MEMORY_GB
        ),
        ("template selection", "4 of 12, 1,024 pixels"): lambda on: select(rows(12, 16, 32, 32), 4, device=on),
    }
    for (what, step), task in tasks.items():
        with cuda_device() as device:
            task(device)
            yield Row(what, step, device.counts.copied())
    extractor = Extractor(backbone="resnet18", weights="random(0)", taps=("layer2", "layer3"), resize=(64, 64))
    with cuda_device() as device:
        backbone = Backbone.load(extractor, device=device)
        backbone.extract(torch.zeros(1, 3, 64, 64))
        device.counts.reset()
        backbone.extract(torch.zeros(8, 3, 64, 64))
        yield Row("extraction", "8 images, ResNet18 to layer3", device.counts.copied())


def heading() -> str:
    """Of a table in Markdown."""
    names = [TITLES.get(each.name, each.name) for each in fields(Counts) if each.name != "live_bytes"]
    return f"| what | step | {' | '.join(names)} |\n{'|---' * (2 + len(names))}|"


def line(row: Row) -> str:
    """A row of the table."""
    names = [each.name for each in fields(Counts) if each.name != "live_bytes"]
    values = [(name, getattr(row.counts, name)) for name in names]
    cells = [f"{value / 1e6:.1f}" if "bytes" in name else f"{value:,}" for name, value in values]
    return f"| {row.what} | {row.step} | {' | '.join(cells)} |"


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every variant")
    parser.add_argument("--only", default="", help="what has this in its name")
    args = parser.parse_args()
    given = images()
    wanted = [each for each in variants() if args.all or not each.options or str(each) in FEW]
    print(heading())
    for variant in wanted:
        for row in of_variant(variant, given) if args.only in str(variant) else ():
            print(line(row), flush=True)
    for row in of_kernels() if not args.only else ():
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
