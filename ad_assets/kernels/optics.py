"""OPTICS on distance matrices, many sets at once: the clustering of pixel-level template selection (HETMM).

Ordering: Ankerst, Breunig, Kriegel and Sander, OPTICS, SIGMOD 1999, without a limit on distances. Clusters: the
xi-steep areas of their figure 19 with the two corrections that scikit-learn made (a steep downward point drops by the
factor 1 - xi; in definition 11.4c the end moves back while it lies above the start), and the predecessor correction of
Schubert and Gertz, Improving the Cluster Structure Extracted from OPTICS Plots, LWDA 2018.

The labels are scikit-learn's, to the last point. Three conventions decide ties: core distances and reachabilities are
rounded to 15 decimals, the lowest index goes first, and the diagonal counts among the `min_samples`. Every set is
scalar work of order N^2 on one thread, without the interpreter's lock, and independent of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numba import njit

from ad_assets.kernels.parallel import map_single_threaded, spans, threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

DECIMALS = 15
ROUNDING = 2 * 10.0**-DECIMALS
KEEPS = 1 - 0.05  # 1 - xi: what a steep step leaves of the higher side
NOISE = -1
STEEP = 2  # slopes are 0 level, 1 up, STEEP steeply up, and their negatives
BLOCKS_PER_THREAD = 4
FEW = 32  # neighbours up to which insertion beats a partition
compiled: Any = njit(nogil=True, cache=True, error_model="numpy")


def optics_labels(distances: Tensor, min_samples: int) -> Tensor:
    """Cluster labels of P sets, equal to ``OPTICS(min_samples=min_samples, metric="precomputed")`` of scikit-learn.

    Args:
        distances: (P, N, N) floating point, finite and not negative; row i holds the distances from i.
        min_samples: 2..N, points that make a dense neighbourhood, the point itself included; also the smallest cluster.

    Returns:
        (P, N) int64 on the device of `distances`: clusters 0, 1, ... in the order of the plot, `NOISE` outside them.

    Raises:
        ValueError: not P square matrices, a NaN, infinite or negative distance, or min_samples out of range.
    """
    _check(distances, min_samples)
    matrices = distances.detach().to("cpu", torch.float64).contiguous().numpy()
    labels = np.full(matrices.shape[:2], NOISE, dtype=np.int64)
    in_threads(lambda part: _label_block(matrices[part], min_samples, labels[part]), len(matrices))
    return torch.from_numpy(labels).to(distances.device)


def in_threads(work: Callable[[slice], None], sets: int) -> None:
    """Call `work` for slices that cover all sets, on threads that compute alone; it must give up the lock itself."""
    list(map_single_threaded(work, spans(sets, -(-sets // (threads() * BLOCKS_PER_THREAD)))))


def _check(distances: Tensor, min_samples: int) -> None:
    shape = tuple(distances.shape)
    if distances.ndim != 3 or shape[1] != shape[2] or 0 in shape or not distances.is_floating_point():
        raise ValueError(f"distances must be (P, N, N) floating point and not empty, got {distances.dtype} {shape}")
    if not 2 <= min_samples <= shape[1]:
        raise ValueError(f"min_samples must be 2..{shape[1]}, the number of points, got {min_samples}")
    low, high = (float(value) for value in distances.aminmax())
    if not (low >= 0 and high < np.inf):
        bad = ~((distances >= 0) & (distances < torch.inf))
        at = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"distances must be finite and not negative; at {at} there is {float(distances[at])}")


def _label_block(distances: Floats, min_samples: int, labels: Integers) -> None:
    """Fill labels (P, N), which hold `NOISE`, from distances (P, N, N)."""
    if min_samples <= FEW:
        core = _core_distances(distances, min_samples)
    else:
        core = np.partition(distances, min_samples - 1, axis=2)[:, :, min_samples - 1]
    _label_sets(distances, core.round(DECIMALS), min_samples, labels)


@compiled
def _core_distances(distances: Floats, min_samples: int) -> Floats:
    """The min_samples-th smallest distance of every point (P, N); almost all distances cost one comparison."""
    core = np.empty(distances.shape[:2])
    smallest = np.empty(min_samples)
    for one in range(len(distances)):
        for point in range(distances.shape[1]):
            smallest[:] = np.inf
            for distance in distances[one, point]:
                if distance < smallest[-1]:
                    place = min_samples - 1
                    while place > 0 and smallest[place - 1] > distance:
                        smallest[place] = smallest[place - 1]
                        place -= 1
                    smallest[place] = distance
            core[one, point] = smallest[-1]
    return core


@compiled
def _label_sets(distances: Floats, core: Floats, min_samples: int, labels: Integers) -> None:
    for one in range(len(distances)):
        order, plot, reached_from = _ordered(distances[one], core[one])
        places = np.full(len(order), NOISE, dtype=np.int64)
        _label_plot(plot, reached_from, min_samples, places)
        for place, point in enumerate(order):
            labels[one, point] = places[place]


@compiled
def _ordered(distances: Floats, core: Floats) -> tuple[Integers, Floats, Integers]:
    """The cluster order of one set of distances (N, N) and core distances (N,).

    Returns:
        Points in order (N,), their reachabilities with infinity at both ends (N + 1,), and the place in the order of
        the point that each was reached from (N,), -1 for the first.
    """
    n = len(distances)
    order, reached_from = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    plot = np.full(n + 1, np.inf)
    reachability, source = np.full(n, np.inf), np.full(n, -1, dtype=np.int64)
    waiting, count = np.arange(n), n
    point = 0
    for place in range(n):
        order[place], plot[place], reached_from[place] = point, reachability[point], source[point]
        following, kept = -1, 0
        for other in waiting[:count]:
            if other == point:
                continue
            waiting[kept] = other
            kept += 1
            reach = max(distances[point, other], core[point])
            if reach < reachability[other] + ROUNDING:  # most are not, and rounding is what costs
                reach = np.rint(reach * 10.0**DECIMALS) / 10.0**DECIMALS
                if reach < reachability[other]:
                    reachability[other], source[other] = reach, place
            if following < 0 or reachability[other] < reachability[following]:
                following = other
        point, count = following, kept
    return order, plot, reached_from


@compiled
def _slopes(plot: Floats) -> Integers:
    """Steps from each place to the next (N,); 0 / 0 and infinity / infinity are level."""
    slopes = np.zeros(len(plot) - 1, dtype=np.int64)
    for place in range(len(slopes)):
        ratio = plot[place] / plot[place + 1]
        if ratio <= KEEPS:
            slopes[place] = STEEP
        elif ratio < 1:
            slopes[place] = 1
        elif ratio >= 1 / KEEPS:
            slopes[place] = -STEEP
        elif ratio > 1:
            slopes[place] = -1
    return slopes


@compiled
def _area_end(slopes: Integers, start: int, sign: int, min_samples: int) -> int:
    """Last steep place of the maximal steep area from `start`, upward (sign 1) or downward (-1); definition 9."""
    end, idle = start, 0
    for place in range(start + 1, len(slopes)):
        if slopes[place] * sign < 0:
            break
        if slopes[place] == sign * STEEP:
            end, idle = place, 0
        else:
            idle += 1
            if idle > min_samples:
                break
    return end


@compiled
def _label_plot(plot: Floats, reached_from: Integers, min_samples: int, places: Integers) -> None:
    """Figure 19: fill the label of each place. Clusters that hold a labelled place are coarser ones and left out."""
    slopes = _slopes(plot)
    starts, ends = np.empty(len(slopes), dtype=np.int64), np.empty(len(slopes), dtype=np.int64)
    between = np.empty(len(slopes))  # highest place since the end of a steep down area
    areas, label, place, highest = 0, 0, 0, 0.0
    while place < len(slopes):
        highest = max(highest, plot[place])
        if abs(slopes[place]) < STEEP:
            place += 1
            continue
        areas = _areas_still_open(plot, highest, starts, ends, between, areas)
        if slopes[place] < 0:
            starts[areas], between[areas] = place, 0.0
            ends[areas] = _area_end(slopes, place, -1, min_samples)
            place = ends[areas] + 1
            areas += 1
        else:
            last = _area_end(slopes, place, 1, min_samples)
            for area in range(areas - 1, -1, -1):  # the latest start first: small clusters before those around them
                down = (starts[area], ends[area], between[area])
                start, end = _cluster(plot, reached_from, down, (place, last), min_samples)
                if start <= end and np.all(places[start : end + 1] == NOISE):
                    places[start : end + 1] = label
                    label += 1
            place = last + 1
        highest = plot[place]


@compiled
def _areas_still_open(
    plot: Floats, highest: float, starts: Integers, ends: Integers, between: Floats, areas: int
) -> int:
    """Keep the steep down areas that start well above what came since, in place; their number."""
    kept = 0
    for area in range(areas):
        if highest < np.inf and highest <= plot[starts[area]] * KEEPS:
            starts[kept], ends[kept] = starts[area], ends[area]
            between[kept] = max(between[area], highest)
            kept += 1
    return kept


@compiled
def _cluster(
    plot: Floats, reached_from: Integers, down: tuple[int, int, float], up: tuple[int, int], min_samples: int
) -> tuple[int, int]:
    """First and last place of the cluster between two steep areas by definition 11, or (0, -1) if there is none."""
    start, down_end, between = down
    up_start, end = up
    before, after = plot[start], plot[end + 1]
    if after * KEEPS < between:
        return 0, -1
    if before * KEEPS >= after:
        while start < down_end and plot[start + 1] > after:
            start += 1
    elif after * KEEPS >= before:
        while end > up_start and plot[end - 1] > before:
            end -= 1
    # Predecessor correction: the last place must lie below the first, or have been reached from inside.
    while start < end and plot[start] <= plot[end] and not start <= reached_from[end] < end:
        end -= 1
    if start >= end or end - start + 1 < min_samples or start > down_end or end < up_start:
        return 0, -1
    return start, end
