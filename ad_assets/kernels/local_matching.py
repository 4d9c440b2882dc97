"""Template matching within a window, in both directions from one pass (Chen et al., HETMM, equations 3 to 5).

Both directions ask for cosines of the same pairs: query place y against template place x, at most half a window apart.
With M(x, e) the largest cosine over all templates t of <T_t(x), Q(x + e)>,

- backward(x) = 1 - max over e of M(x, e), equation 5;
- forward(y) = 1 - max over e of M(y - e, e), equation 4,

so one table M answers both directions and every smaller window, and it has m^2 numbers a place instead of T. The
templates of a place against the query vectors within its window are one matrix product of a batch of places; its
maximum over t is taken while it is in the cache. Rows are tasks of threads that compute alone, so nothing depends on
their number. A GPU fills the table otherwise (`matching_on_device`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ad_assets.kernels.matching_on_device import NEVER, NOBODY, fill_table, highest
from ad_assets.kernels.nearest.bounds import full_precision
from ad_assets.kernels.parallel import each

Screening = Literal["float32", "bfloat16"]

CPU_PRODUCT = 400_000  # values of one product, and of what enters it, that stay in the outer cache
CUDA_PRODUCT = 1 << 25
MOST_IMAGES = 8  # at once: wide enough for matrix products, narrow enough for the cache
MOST_IMAGES_CUDA = 16


@dataclass(frozen=True)
class Matches:
    """The largest cosine over all templates, for every template place and every offset to a query place.

    Args:
        best: (H, W, m, m, B) float32; ``best[x, e]`` belongs to query place x + e - m // 2, -inf outside the image.
        which: (H, W, m, m, B) int32, the template that has it or `NOBODY`; None where `best` is final.
        query: (H, W, B, C) unit length; kept to score `which` again.
        templates: (H, W, T, C) unit length.
    """

    best: Tensor
    which: Tensor | None
    query: Tensor
    templates: Tensor

    def forward(self, window: int) -> Tensor:
        """Distances (B, H, W) of query places to the nearest template place within a window (equation 4).

        Raises:
            ValueError: the window is larger than the one that was matched.
        """
        middle, radius = self._radius(window)
        if self.best.device.type == "cpu":
            top, offset = self._highest(radius)
        else:
            top, offset = highest(self.best, radius, with_offsets=self.which is not None)
        if offset is not None and self.which is not None:
            y, x, b = _places(top)
            number = offset.long()
            ty, tx = y - number // (2 * middle + 1) + middle, x - number % (2 * middle + 1) + middle
            t = self.which.flatten(2, 3)[ty, tx, number, b].long()
            top = self._score(y, x, b, ty, tx, t)
        return _distances(top)

    def _highest(self, radius: int) -> tuple[Tensor, Tensor | None]:
        """(H, W, B) the largest cosine of every query place, and where `which` is kept the offset at which it is."""
        height, width, span, _, images = self.best.shape
        middle = span // 2
        top = self.best.new_full((height, width, images), NEVER)
        offset = torch.zeros(top.shape, dtype=torch.int32, device=top.device) if self.which is not None else None
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                rows, columns = _overlap(height, dy), _overlap(width, dx)
                one = self.best[rows.template, columns.template, middle + dy, middle + dx]
                place = top[rows.query, columns.query]
                if offset is not None:
                    step = (middle + dy) * span + middle + dx
                    offset[rows.query, columns.query].masked_fill_(one > place, step)
                torch.maximum(place, one, out=place)
        return top, offset

    def backward(self, window: int) -> Tensor:
        """Distances (B, H, W) of template places to the nearest query place within a window (equation 5).

        Raises:
            ValueError: the window is larger than the one that was matched.
        """
        middle, radius = self._radius(window)
        side = slice(middle - radius, middle + radius + 1)
        inside = self.best[:, :, side, side].flatten(2, 3)
        if self.which is None:
            return _distances(inside.amax(dim=2))
        top, number = inside.max(dim=2)
        t = self.which[:, :, side, side].flatten(2, 3).gather(2, number[:, :, None])[:, :, 0].long()
        y, x, b = _places(top)
        span = 2 * radius + 1
        return _distances(self._score(y + number // span - radius, x + number % span - radius, b, y, x, t))

    def _radius(self, window: int) -> tuple[int, int]:
        middle, radius = self.best.shape[2] // 2, window // 2
        if window < 1 or radius > middle:
            raise ValueError(f"window {window}: these matches serve windows from 1 to {2 * middle + 1}")
        return middle, radius

    def _score(self, qy: Tensor, qx: Tensor, b: Tensor, ty: Tensor, tx: Tensor, t: Tensor) -> Tensor:
        """Cosines of given pairs in float32, image by image to bound the gathered vectors."""
        cosines = torch.stack(
            [
                torch.linalg.vecdot(
                    self.query[qy[..., i], qx[..., i], b[..., i]], self.templates[ty[..., i], tx[..., i], t[..., i]]
                )
                for i in range(qy.shape[2])
            ],
            dim=2,
        )
        return cosines.masked_fill_(t == NOBODY, 0)


def match(
    query: Tensor,
    templates: Tensor,
    window_forward: int,
    window_backward: int,
    *,
    memory_gb: float = 1.0,
    screening: Screening = "float32",
    excluded: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosine distances in both directions.

    Args:
        query: (B, C, H, W) float32, unit length over C.
        templates: (T, C, H, W) float32, unit length over C. A permuted view of (H, W, T, C) is not copied.
        window_forward: side m of the window around a query place, in places; an even m counts as m + 1.
        window_backward: the same around a template place.
        memory_gb: budget in GB for temporary tensors; at least one image is matched at a time.
        screening: ``bfloat16`` finds the best pair in bfloat16 and scores that pair in float32. Distances are then
            those of real pairs, at most 0.012 above the smallest (two roundings of 2^-9 in inputs, one in results).
            It pays with many templates, and where bfloat16 is much faster than float32.
        excluded: (B, T, H, W) bool, vectors that an image does not meet; where it meets none, its cosines are 0.

    Returns:
        forward and backward distances, each (B, H, W) float32 in [0, 2]; windows are cut off at the border.

    Raises:
        ValueError: shapes that do not fit, no template, a window below 1, NaN or infinity.
    """
    _check(query, templates, window_forward, window_backward)
    window = max(window_forward, window_backward)
    rows = templates.permute(2, 3, 0, 1).contiguous()
    screened = rows.bfloat16() if screening == "bfloat16" else None
    forward, backward = [], []
    step = _images_at_once(rows, window, memory_gb)
    for first in range(0, len(query), step):
        some = slice(first, first + step)
        unmet = excluded[some].permute(2, 3, 1, 0) if excluded is not None else None
        matches = find_matches(query[some], rows, window, screened=screened, excluded=unmet)
        forward.append(matches.forward(window_forward))
        backward.append(matches.backward(window_backward))
    results = torch.cat(forward), torch.cat(backward)
    if not all(result.isfinite().all() for result in results):
        raise ValueError("query or templates hold NaN or infinity: check the images, or extract features in float32")
    return results


def find_matches(
    query: Tensor,
    templates: Tensor,
    window: int,
    *,
    screened: Tensor | None = None,
    excluded: Tensor | None = None,
) -> Matches:
    """The table from which both directions and all windows up to `window` follow.

    Args:
        query: (B, C, H, W) float32, unit length over C; a few images, all are matched at once.
        templates: (H, W, T, C) float32, unit length over C, contiguous.
        window: largest side of a window, in places.
        screened: the templates in bfloat16, to find pairs with; None finds them in float32.
        excluded: (H, W, T, B) bool, vectors that an image does not meet.
    """
    height, width, count, channels = templates.shape
    images, radius = len(query), window // 2
    span = 2 * radius + 1
    places = _places_at_once(count, channels, span, images, templates.device)
    with full_precision():
        q = query.permute(2, 3, 0, 1).contiguous()
        t = templates if screened is None else screened
        best = query.new_full((height, width, span, span, images), NEVER)
        which = None
        if screened is not None:
            which = torch.zeros(best.shape, dtype=torch.int32, device=best.device)
        if best.device.type != "cpu":
            fill_table(best, which, q.to(t.dtype), t, places, excluded)
            return Matches(best, which, q, templates)
        padded = t.new_zeros(height, width + 2 * radius, images, channels)
        padded[:, radius : radius + width] = q

        def compare(y: int) -> None:
            above, below = max(0, y - radius), min(height, y + radius + 1)
            rows = slice(above - y + radius, below - y + radius)
            windows = padded[above:below].unfold(1, span, 1).permute(1, 0, 4, 2, 3)  # (W, rows, span, B, C)
            for left in range(0, width, places):
                right = min(left + places, width)
                # Windows overlap: copied, a place's is one matrix, and no product is of a pair outside of it.
                inside = windows[left:right].reshape(right - left, -1, channels)
                cosines = torch.bmm(t[y, left:right], inside.mT)
                if excluded is not None:
                    _exclude(cosines.unflatten(2, (-1, images)), excluded[y, left:right])
                shape = right - left, below - above, span, images
                if which is None:
                    best[y, left:right, rows] = cosines.amax(dim=1).view(shape)
                else:
                    top, index = cosines.max(dim=1)
                    if excluded is not None:
                        nothing = excluded[y, left:right].all(dim=1)
                        index.unflatten(1, (-1, images)).masked_fill_(nothing[:, None], NOBODY)
                    best[y, left:right, rows] = top.view(shape).to(best.dtype)
                    which[y, left:right, rows] = index.view(shape).to(which.dtype)

        list(each(compare, range(height), "cpu"))
    for dx in range(-radius, radius + 1):
        inside = _overlap(width, dx).template
        best[:, : inside.start, :, radius + dx] = NEVER
        best[:, inside.stop :, :, radius + dx] = NEVER
    return Matches(best, which, q, templates)


def _exclude(cosines: Tensor, excluded: Tensor) -> None:
    """Take from (n, T, places, B) cosines those of (n, T, B) excluded templates."""
    place, template, image = excluded.nonzero(as_tuple=True)
    cosines[place, template, :, image] = NEVER
    place, image = excluded.all(dim=1).nonzero(as_tuple=True)
    cosines[place, :, :, image] = 0


@dataclass(frozen=True)
class _Overlap:
    template: slice
    query: slice


def _overlap(side: int, offset: int) -> _Overlap:
    """Along one axis, the template places whose query place lies inside, and those query places."""
    first, last = min(max(0, -offset), side), max(min(side, side - offset), 0)
    last = max(first, last)
    return _Overlap(slice(first, last), slice(first + offset, last + offset) if last > first else slice(0, 0))


def _places(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and image of every entry of (H, W, B)."""
    y, x, b = torch.meshgrid(*(torch.arange(n, device=like.device) for n in like.shape), indexing="ij")
    return y, x, b


def _distances(cosines: Tensor) -> Tensor:
    """(H, W, B) cosines to (B, H, W) distances; rounding alone may leave [0, 2]."""
    return (1 - cosines).clamp(0, 2).permute(2, 0, 1).contiguous()


def _places_at_once(templates: int, channels: int, span: int, images: int, device: torch.device) -> int:
    largest = CUDA_PRODUCT if device.type == "cuda" else CPU_PRODUCT
    return max(1, largest // ((templates + channels) * span**2 * images))


def _images_at_once(rows: Tensor, window: int, memory_gb: float) -> int:
    height, width, count, channels = rows.shape
    span = 2 * (window // 2) + 1
    places = min(width, _places_at_once(count, channels, span, 1, rows.device))
    table = height * width * span**2
    if rows.device.type != "cpu":
        need = 4 * (4 * table + 2 * (height + span) * (width + span) * channels)
        return max(1, min(MOST_IMAGES_CUDA, int((memory_gb * 1e9 - 4 * CUDA_PRODUCT) / need)))
    at_once = places * span**2 * (count + channels)  # of one thread: how many there are must not change the batch
    need = 4 * (3 * table + 2 * height * (width + span) * channels + at_once)
    return max(1, min(MOST_IMAGES, int(memory_gb * 1e9 / need)))


def _check(query: Tensor, templates: Tensor, *windows: int) -> None:
    if query.ndim != 4 or templates.ndim != 4 or query.shape[1:] != templates.shape[1:]:
        raise ValueError(
            f"query {tuple(query.shape)} and templates {tuple(templates.shape)} must be (B, C, H, W) and (T, C, H, W) "
            "of one extractor"
        )
    if not len(templates) or not query[0:1].numel():
        raise ValueError(f"nothing to match: {len(query)} images against {len(templates)} templates")
    if query.dtype != torch.float32 or templates.dtype != torch.float32:
        raise ValueError(f"query and templates must be float32, got {query.dtype} and {templates.dtype}")
    if min(windows) < 1:
        raise ValueError(f"windows must be at least 1, got {windows}")
