"""A histogram of float32 scores of any range whose bins are fine where normal and anomalous pixels meet.

The bits of a float, read as an integer, have the order of the floats; among negative ones, the reverse. The upper 14
bits are a page, 1/32 of an octave; each page has its own number of bins, up to one per float. Bins only merge
neighbours in the order, so nothing is clamped, an outlier costs nothing, and what the merging can change in a metric is
bounded (tests check the bounds). Scores of few distinct values (maps kept in 8 or 16 bits) leave one value to a bin,
and no error.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ad_assets.metrics.threshold_curve import Levels

PAGE_WIDTH = 18  # bits of a score below its page
PAGES = 1 << 14  # the lower half holds the negative scores
SHIFT_BITS = 5  # of a table entry; the rest is the page's first bin
TARGET_BINS = 1 << 19  # random access to more leaves the cache of a core and costs more than it gains
FEWEST_PAGE_BITS = 5  # log2 of bins; enough for one bin per float16
EMPTY = 2**31 - 1  # the bits of no finite score
HEAVY_SHARE = 1e-3  # a score as frequent as this (0 where maps are cut off, say) gets a bin of its own
MOST_HEAVY_PAGES = 4
CHUNK = 1 << 15  # scores that stay in the cache of a core, too few for torch to wait for a second thread
LARGEST_COUNT = 2**31 - 1  # of int32

Scores = NDArray[np.float32]


class ScoreHistogram:
    """Counts of all pixels and of anomalous ones, and the weight of the latter, in 0.5 to 2.6 million bins.

    Args:
        scores: (n,) float32 sample of the scores of all pixels; where it is dense, bins are fine.
        anomalous: (m,) float32 sample of the scores of anomalous pixels; where both are, bins are finest.
    """

    _page_bits: NDArray[np.int64]  # (PAGES,) log2 of the bins of each page
    _first_bin: NDArray[np.int64]  # (PAGES,)
    _table: Tensor  # (PAGES,) int32, first bin and shift of each page
    _all: Tensor  # (bins,) integer
    _anomalous: Tensor
    _weight: Tensor  # (bins,) float64
    _only: NDArray[np.int32] | None  # (bins,) the bits of the one score that each bin has met, None once one met two

    def __init__(self, scores: Scores, anomalous: Scores) -> None:
        raw = _bits_of(torch.from_numpy(scores))
        everywhere, defects = _page_counts(raw), _page_counts(_bits_of(torch.from_numpy(anomalous)))
        together = np.sqrt(everywhere * defects)  # errors of areas are least when bins go with the root of the product
        share = sum(part / max(part.sum(), 1) for part in (everywhere, defects, together)) / 3
        page_bits = np.ceil(np.log2(np.maximum(share * TARGET_BINS, 1))).astype(np.int64)
        page_bits[_heavy_pages(raw)] = PAGE_WIDTH
        self._lay_out(page_bits.clip(FEWEST_PAGE_BITS, PAGE_WIDTH))
        self._total = 0

    def add(self, scores: Scores, anomalous: Scores, weights: NDArray[np.float64]) -> None:
        """Count pixels.

        Args:
            scores: (n,) float32, finite, of all pixels.
            anomalous: (m,) float32, of the anomalous ones among them.
            weights: (m,) float64, of the same.
        """
        self._expect(len(scores))
        ones = torch.ones(CHUNK, dtype=self._all.dtype)
        for chunk in torch.from_numpy(scores).split(CHUNK):
            raw = _bits_of(chunk)
            self._watch(raw)
            self._all.index_add_(0, self._bins_of(raw), ones[: len(raw)])
        parts = (torch.from_numpy(part).split(CHUNK) for part in (anomalous, weights))
        for chunk, weight in zip(*parts, strict=True):
            bins = self._bins_of(_bits_of(chunk))
            self._anomalous.index_add_(0, bins, ones[: len(bins)])
            self._weight.index_add_(0, bins, weight)

    def merge(self, other: ScoreHistogram) -> None:
        """Add the counts of another histogram; a page takes the coarser of both resolutions."""
        parts = [(part._first_scores(np.arange(len(part._all))), part._only, part._counts()) for part in (self, other)]
        self._lay_out(np.minimum(self._page_bits, other._page_bits))
        self._expect(other._total)
        for raw, only, counts in parts:
            if only is None:
                self._only = None
            else:
                self._watch(torch.from_numpy(only[only != EMPTY]))
            bins = self._bins_of(raw)
            for mine, theirs in zip(self._counts(), counts, strict=True):
                mine.index_add_(0, bins, theirs.to(mine.dtype))

    def levels(self) -> Levels:
        """The bins that hold anomalous pixels, each taken as one score unless it can hold no second one."""
        negative = int(self._first_bin[PAGES // 2])
        everywhere, anomalous, weight = (
            np.concatenate([part[negative:][::-1], part[:negative]]) for part in map(Tensor.numpy, self._counts())
        )
        used = np.flatnonzero(anomalous)
        bins = len(anomalous) - 1 - used
        bins = np.where(bins < negative, negative - 1 - bins, bins)
        reached = anomalous[used].cumsum(dtype=np.int64)
        at_least = everywhere.cumsum(dtype=np.int64)[used]
        width = 1 << (PAGE_WIDTH - self._page_bits[self._page_of(bins)])
        smallest = self._first_scores(bins).numpy() + np.where(bins < negative, width - 1, 0).astype(np.int32)
        return Levels(
            thresholds=(smallest if self._only is None else self._only[bins]).view(np.float32).astype(np.float64),
            anomalous=reached,
            weight=weight[used].cumsum(),
            normal_above=at_least - everywhere[used] - reached + anomalous[used],
            normal=at_least - reached,
            normal_total=self._total - int(reached[-1]),
            tied=(width == 1) | (everywhere[used] == 1) | (self._only is not None),
        )

    def _watch(self, raw: Tensor) -> None:
        """Remember the score of each bin until one bin has met two."""
        if self._only is None:
            return
        bins, values = self._bins_of(raw.clone()).numpy(), raw.numpy()
        known = self._only[bins]
        self._only[bins] = values
        if ((known != EMPTY) & (known != values)).any() or (self._only[bins] != values).any():
            self._only = None

    def _counts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._all, self._anomalous, self._weight

    def _expect(self, pixels: int) -> None:
        self._total += pixels
        if self._total > LARGEST_COUNT:
            self._all, self._anomalous = self._all.long(), self._anomalous.long()

    def _bins_of(self, raw: Tensor) -> Tensor:
        """(n,) int32 bins of the bits of scores, which are overwritten."""
        entry = self._table.index_select(0, (raw >> PAGE_WIDTH).add_(PAGES // 2))
        raw.bitwise_and_((1 << PAGE_WIDTH) - 1)
        raw.bitwise_right_shift_(entry.bitwise_and((1 << SHIFT_BITS) - 1))
        return raw.add_(entry.bitwise_right_shift_(SHIFT_BITS))

    def _lay_out(self, page_bits: NDArray[np.int64]) -> None:
        """Empty bins, a power of two for each page."""
        self._page_bits = page_bits
        sizes = 1 << page_bits
        self._first_bin = sizes.cumsum() - sizes
        table = (self._first_bin << SHIFT_BITS) | (PAGE_WIDTH - page_bits)
        self._table = torch.from_numpy(table.astype(np.int32))
        bins = int(sizes.sum())
        self._all, self._anomalous = (torch.from_numpy(np.zeros(bins, np.int32)) for _ in range(2))
        self._weight = torch.from_numpy(np.zeros(bins))
        self._only = np.full(bins, EMPTY, np.int32)

    def _first_scores(self, bins: NDArray[np.int64]) -> Tensor:
        """(n,) int32, the first bits that fall into each bin."""
        page = self._page_of(bins)
        inside = (bins - self._first_bin[page]) << (PAGE_WIDTH - self._page_bits[page])
        return torch.from_numpy((((page - PAGES // 2) << PAGE_WIDTH) + inside).astype(np.int32))

    def _page_of(self, bins: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.repeat(np.arange(PAGES), 1 << self._page_bits)[bins]


def _bits_of(scores: Tensor) -> Tensor:
    """(n,) float32 to int32; -0.0 becomes 0.0, its equal."""
    return (scores + 0.0).view(torch.int32)


def _heavy_pages(raw: Tensor) -> NDArray[np.int64]:
    """Pages of the most frequent scores."""
    values, counts = np.unique(raw.numpy(), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_HEAVY_PAGES]
    heavy = values[order][counts[order] > HEAVY_SHARE * len(raw)]
    return np.unique((heavy >> PAGE_WIDTH) + PAGES // 2)


def _page_counts(raw: Tensor) -> NDArray[np.float64]:
    return torch.bincount((raw >> PAGE_WIDTH) + PAGES // 2, minlength=PAGES).double().numpy()
