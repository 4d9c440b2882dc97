"""What kernels ask of a GPU: launches, waits and memory, bounded by numbers so that they do not creep back.

The bounds are a little above what was counted on the emulated device when they were written.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from ad_assets.kernels.coreset import greedy_coreset
from ad_assets.kernels.coverage import covering_radius, radius_of_picks, random_projection
from ad_assets.kernels.local_matching import match
from ad_assets.kernels.nearest.all_pairs import all_pairs
from ad_assets.kernels.nearest.search import nearest
from ad_assets.kernels.proxies import learned_proxies
from ad_assets.kernels.rows import HeldRows
from ad_assets.methods import Batch, Runtime
from ad_assets.methods.hetmm.template_selection import select_with_clusters
from ad_assets.methods.padim import Padim
from ad_assets.methods.patch_embedding import embed
from tests.support.emulated_device import cuda_device
from tests.support.tap_features import tap_features


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0]))


def clustered(rows: int, dimensions: int) -> torch.Tensor:
    member = torch.randint(200, (rows,), generator=torch.Generator().manual_seed(0))
    return 2 * normal(200, dimensions)[member] + normal(rows, dimensions)


def test_a_pick_of_a_coreset_costs_less_than_a_launch_and_no_wait() -> None:
    rows = clustered(8000, 32)
    with cuda_device() as device:
        on_device = rows.to(device)
        device.counts.reset()
        greedy_coreset(on_device, 800, memory_gb=0.1)
        counts = device.counts.copied()
    assert counts.launches < 0.6 * 800
    assert counts.synchronisations < 0.09 * 800
    assert counts.bytes_out < 800 * 80e3


def test_rows_of_main_memory_pass_the_device_once() -> None:
    rows, picks = normal(4000, 64), torch.arange(0, 4000, 40)
    with cuda_device() as device:
        projected = random_projection(rows, 16, seed=0, device=device)
        bank = rows[picks].to(device)
        device.counts.reset()
        covering_radius(rows, bank, 0.05)
        assert device.counts.bytes_in == rows.nbytes
        assert device.counts.bytes_out < 1000
        device.counts.reset()
        radius_of_picks(HeldRows(rows), bank, projected[picks], lambda first, block: projected[first:][: len(block)])
        assert device.counts.bytes_in < 2.2 * rows.nbytes
        device.counts.reset()
        learned_proxies(rows, 20, seed=0, steps=10, batch=50, device=device)
        assert device.counts.bytes_in < rows.nbytes  # mini-batches, not all rows


@pytest.mark.parametrize("k", [1, 30])
def test_a_search_waits_for_what_it_must_know_and_no_more(k: int) -> None:
    queries, bank = normal(784, 32), normal(9000, 32)
    with cuda_device() as device:
        queries, bank = queries.to(device), bank.to(device)
        device.counts.reset()
        nearest(queries, bank, k)
        assert device.counts.synchronisations <= 3  # two checks, and which queries are in doubt
        assert device.counts.launches < 60


def test_all_pairs_compute_half_the_products() -> None:
    rows = normal(6000, 16)
    with cuda_device() as device:
        on_device = rows.to(device)
        device.counts.reset()
        all_pairs(on_device, 5, memory_gb=0.1)
        assert device.counts.operations["mm"] <= 6 * 7 // 2
        assert device.counts.synchronisations <= 3


def test_a_block_of_pixels_costs_a_few_launches_and_one_copy_back() -> None:
    templates = normalize(normal(40, 16, 16, 8), dim=1)
    with cuda_device() as device:
        select_with_clusters(templates, 10, device=device)
        counts = device.counts.copied()
    assert counts.launches <= 2 * 128 // 32
    assert counts.bytes_in == templates.nbytes
    assert (counts.copies_out, counts.bytes_out) == (1, 128 * 40 * 40 * 8)


def test_matching_launches_a_few_kernels_a_block_of_rows() -> None:
    query, templates = normalize(normal(8, 16, 32, 32), dim=1), normalize(normal(20, 16, 32, 32), dim=1)
    with cuda_device() as device:
        query, templates = query.to(device), templates.to(device)
        device.counts.reset()
        match(query, templates, 7, 7)
        assert device.counts.launches < 50
        assert device.counts.synchronisations <= 2


@pytest.mark.parametrize(("pooling", "launches"), [("authors", 10), ("concat", 10)])
def test_a_batch_is_described_at_once(pooling: str, launches: int) -> None:
    taps = [normal(16, 8, 12, 12), normal(16, 16, 6, 6)]
    with cuda_device() as device:
        taps = [tap.to(device) for tap in taps]
        device.counts.reset()
        embed(taps, pooling=pooling, pre_dimensions=16, dimensions=16)  # type: ignore[arg-type]
        assert device.counts.launches <= launches


def test_padim_keeps_to_the_budget_of_the_device() -> None:
    features, runtime = tap_features([normal(6, 40, 16, 16)]), Runtime("cuda:0", 1.0, device_memory_gb=0.004)
    method = Padim(channels=None)  # a factor of all places takes 1.6 MB
    batch = Batch(features.load(list(features.image_ids[:2]), None), (16, 16), features.image_ids[:2], left_out=True)
    with cuda_device() as device:
        state = method.fit(features, runtime)
        assert device.counts.peak_bytes < 2.2e6
        state = method.prepare(state, features, runtime).to(runtime.device)
        method.score(state, batch, runtime)
        assert device.counts.peak_bytes < 4e6
        assert device.counts.live_bytes < 1.8e6
