"""AUPRO of 60 maps of 900 x 900 against the exact computation with one argsort of all pixels.

Run: ``python -m tests.benchmarks.bench_aupro``. Both sides label components with `component_weights`, so the ratio is
about ranking alone; labelling with `scipy.ndimage.label` is timed on its own line.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ad_assets.metrics.components import component_weights
from ad_assets.metrics.pixels import PixelStatistics
from tests.benchmarks.measure import interleaved, peak_extra_megabytes, report
from tests.support.pixel_metrics import aupro, error_bounds

Maps = NDArray[np.float32]
Masks = NDArray[np.bool_]

IMAGES, SIDE, LIMIT = 60, 900, 0.3


def smooth_maps_with_defects(images: int, side: int, seed: int) -> tuple[Maps, Masks]:
    """Continuous smooth fields with elliptic defects on two thirds of the images, 2 to 5 % of the area."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((images, 1, 64, 64), dtype=np.float32)).add(0.3).square()
    maps = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")[:, 0].numpy()
    masks = np.zeros(maps.shape, dtype=np.bool_)
    rows, columns = np.mgrid[:side, :side]
    for image in range(images):
        for _ in range(rng.integers(1, 5) if image % 3 else 0):
            centre, radii = rng.integers(side // 9, side - side // 9, 2), rng.integers(side // 30, side // 8, 2)
            distance = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2
            masks[image] |= distance < 1
            maps[image] += np.exp(-distance).astype(np.float32) * np.float32(rng.uniform(0.2, 1.0))
    return maps, masks


def exact_aupro(maps: Maps, masks: Masks, limit: float) -> float:
    """One argsort of all pixels, two float64 cumulative sums, one point per distinct score."""
    positions, weights, components = component_weights(masks)
    share = np.zeros(maps.size)
    share[positions] = weights / components
    order = np.argsort(-maps.ravel())
    scores = maps.ravel()[order]
    pro = np.cumsum(share[order])
    fpr = np.cumsum(~masks.ravel()[order], dtype=np.float64)
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    fpr, pro = np.append(0.0, fpr[last] / fpr[-1]), np.append(0.0, pro[last])
    inside = int(np.searchsorted(fpr, limit, side="right"))
    at_limit = np.interp(limit, fpr, pro)
    return float(np.trapezoid(np.append(pro[:inside], at_limit), np.append(fpr[:inside], limit))) / limit


def main() -> None:
    maps, masks = smooth_maps_with_defects(IMAGES, SIDE, seed=0)
    aupro(maps[:2], masks[:2])  # loads libraries
    extra = peak_extra_megabytes(lambda: aupro(maps, masks, LIMIT))
    timing = interleaved(lambda: aupro(maps, masks, LIMIT), lambda: exact_aupro(maps, masks, LIMIT), repeats=5)
    exact = exact_aupro(maps, masks, LIMIT)
    error = abs(aupro(maps, masks, LIMIT) - exact)
    statistics = PixelStatistics()
    statistics.update(maps, masks)
    bounds = error_bounds(statistics, LIMIT)
    report("aupro", timing, f"error {error:.1e}, extra {extra:.0f} MB, bounds {bounds}")
    kept = PixelStatistics(exact_pixels=maps.size)
    kept.update(maps, masks)
    print(
        f"other errors: auroc {abs(statistics.pixel_auroc() - kept.pixel_auroc()):.1e}, "
        f"ap {abs(statistics.pixel_ap() - kept.pixel_ap()):.1e}, "
        f"iou {abs(statistics.best_iou()[0] - kept.best_iou()[0]):.1e}; area {masks.mean():.3f}"
    )
    neighbourhood = np.ones((3, 3))
    labelling = interleaved(
        lambda: [component_weights(masks[i : i + 2]) for i in range(0, IMAGES, 2)],
        lambda: [ndimage.label(mask, neighbourhood) for mask in masks],
        repeats=3,
    )
    report("labelling", labelling, "equal components")
    assert abs(kept.aupro(LIMIT) - exact) < 1e-10
    assert error < 1e-6
    assert error <= bounds.aupro < 1e-6
    assert extra < 200
    assert timing.ratio >= 20


if __name__ == "__main__":
    main()
