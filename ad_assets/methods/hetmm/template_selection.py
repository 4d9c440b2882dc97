"""Pixel-level template selection (PTS): Chen et al., HETMM, section 3.3, equations 7-9 and Algorithm 1.

At every pixel the N nominal vectors are thinned to K prototypes. Dense regions (OPTICS) give one central vector each
(Eq. 7), or the whole set gives one where nothing is dense (Eq. 8); the rest are hard vectors, each the farthest in
summed cosine distance from those chosen so far (Eq. 9). All of it reads one float64 Gram matrix a pixel.

On a GPU only these matrices are computed, in blocks of pixels, and they come back while those before are worked on.
OPTICS stays on the CPU: it takes N steps one after another, each of a few operations on N numbers, so that a GPU would
launch several thousand kernels a block for what a thread does in less than a millisecond a pixel.

Distances are not rounded ahead of a choice: that moves near ties to the edges of the rounding, of which there are more
than near ties (`docs/speed.md` has the counts). Equal ones go to the first image, see `kernels/prototypes.py`.

Where it departs from the paper, always as the public implementation does:

- the paper gives no parameter of OPTICS: min_samples is N // K, here at least 2, all else as scikit-learn has it;
- Eq. 9 skips what is chosen already (``repeats`` does as printed), so with K >= N nothing is thinned at all;
- with more regions than sheets, those that appear first in the order of the images are represented.

Alternatives: ``maxmin`` for Eq. 9, and the baselines of the paper's Figure 4, random choice and K-Means, with one
choice for whole images or one for each pixel. Their sheets hold real vectors too: a centroid is represented by the
member nearest to it, so that every template keeps a known source image; the paper does not say what it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Selection = Literal["sum", "maxmin", "repeats", "image_random", "pixel_random", "image_kmeans", "pixel_kmeans"]

UNIT_TOLERANCE = 1e-3
LLOYD_ITERATIONS = 25
LEAST_WEIGHT = 1e-12  # of a vector that equals a seed: drawn only where nothing else is left
GRAM = "the products of all vectors of a place"
CHUNK_BYTES = 64 << 20  # Gram matrices that are worked on together: enough to keep threads busy
TASK_PIXELS = 32  # of one task of a thread


def select(
    templates: Tensor,
    sheets: int,
    *,
    selection: Selection = "sum",
    seed: int = 0,
    device: str = "cpu",
    memory_gb: float = 1.0,
    report: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Choose prototypes for every pixel; see `select_with_clusters`, whose first result this is."""
    picks, _ = select_with_clusters(
        templates, sheets, selection=selection, seed=seed, device=device, memory_gb=memory_gb, report=report
    )
    return picks


def select_with_clusters(
    templates: Tensor,
    sheets: int,
    *,
    selection: Selection = "sum",
    seed: int = 0,
    device: str = "cpu",
    memory_gb: float = 1.0,
    report: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Choose prototypes for every pixel and count the dense regions found there. Ties go to the first image.

    Args:
        templates: (N, C, H, W) floating point, unit length over C, in main memory.
        sheets: prototypes K a pixel, at least 1. With sheets >= N every selection is all N images in their order.
        selection: see the head of this module; only ``repeats`` may choose an image twice at a pixel.
        seed: of random choice and of the K-Means seeding; the others ignore it.
        device: where Gram matrices are computed; templates go there in blocks of pixels.
        memory_gb: budget in GB of temporary tensors, at least one pixel at a time. No result depends on it, unless a
            GPU has room for fewer than `TASK_PIXELS`.
        report: called as ``report(pixels done, pixels)`` after every chunk of pixels.

    Returns:
        Image indices (K, H, W) int64 in the order of selection, and the number of OPTICS clusters (H, W) int64, None
        where OPTICS does not run. Both on the CPU.

    Raises:
        ValueError: templates of another shape, empty, not finite or not unit length; sheets < 1; unknown selection.
    """
    import torch

    from ad_assets.kernels.optics import optics_labels
    from ad_assets.kernels.parallel import each
    from ad_assets.kernels.prototypes import prototypes

    _check(templates, sheets, selection)
    images, _, *grid = templates.shape
    pixels = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(seed)
    if sheets >= images:
        return _on_every_pixel(torch.arange(images), grid), None
    if selection == "image_random":
        return _on_every_pixel(torch.randperm(images, generator=generator)[:sheets], grid), None
    if selection == "pixel_random":
        drawn = [torch.randperm(images, generator=generator)[:sheets] for _ in range(pixels)]
        return torch.stack(drawn, dim=1).unflatten(1, grid), None
    draws = torch.rand(pixels, sheets, generator=generator)
    picks = torch.empty(pixels, sheets, dtype=torch.int64)
    clusters = torch.empty(pixels, dtype=torch.int64)
    mean = torch.zeros(images, images, dtype=torch.float64)
    kept = torch.empty(0)
    with torch.no_grad():
        for part, grams in _grams(templates, memory_gb, device):
            if selection == "image_kmeans":
                for gram in grams:  # one by one: no sum depends on the chunks
                    mean += gram / pixels
            elif selection == "pixel_kmeans":
                blocks = zip(grams.split(TASK_PIXELS), draws[part].split(TASK_PIXELS), strict=True)
                picks[part] = torch.cat(list(each(lambda block: kmeans_members(*block), blocks, "cpu")))
            else:
                # In memory that was used before: fresh pages cost as much as the subtraction.
                kept = kept if len(kept) >= len(grams) else torch.empty_like(grams)
                distances = kept[: len(grams)]
                list(
                    each(_to_distances, zip(grams.split(TASK_PIXELS), distances.split(TASK_PIXELS), strict=True), "cpu")
                )
                labels = optics_labels(distances, max(2, images // sheets))
                clusters[part] = labels.amax(dim=1) + 1
                picks[part] = prototypes(grams, labels, sheets, selection)
            if report is not None:
                report(part.stop, pixels)
        if selection == "image_kmeans":
            return _on_every_pixel(kmeans_members(mean[None], draws[:1])[0], grid), None
    return picks.T.unflatten(1, grid).contiguous(), None if selection == "pixel_kmeans" else clusters.unflatten(0, grid)


def gram_bytes(images: int) -> int:
    """Bytes that are worked on for one place: its float64 Gram matrix, and three of its size."""
    return 32 * images**2


def _to_distances(block: tuple[Tensor, Tensor]) -> None:
    """From Gram matrices to cosine distances, in the second tensor's memory."""
    import torch

    grams, distances = block
    torch.sub(1, grams, out=distances).clamp_(min=0)
    distances.diagonal(dim1=1, dim2=2).zero_()


def kmeans_members(grams: Tensor, draws: Tensor) -> Tensor:
    """K-Means (k-means++ seeds, Lloyd) of P sets that are known by their scalar products only.

    With centroids as means of members, |x - mu|^2 = x.x - 2 x.mu + mu.mu needs nothing but sums of the Gram matrix.

    Args:
        grams: (P, N, N) float64.
        draws: (P, K) float32 uniform in [0, 1), which decide on the seeds; K <= N.

    Returns:
        (P, K) int64: for every cluster the member nearest to its centroid. Clusters share no member.
    """
    import torch
    from torch.nn.functional import one_hot

    clusters = draws.shape[1]
    norms = grams.diagonal(dim1=1, dim2=2)
    seeds = _seeds(grams, draws)
    to_seeds = grams.gather(2, seeds.unsqueeze(1).expand(-1, grams.shape[1], -1))
    squares = norms.unsqueeze(2) + norms.gather(1, seeds).unsqueeze(1) - 2 * to_seeds
    labels = torch.full_like(grams[:, 0], -1, dtype=torch.int64)
    for _ in range(LLOYD_ITERATIONS + 1):
        before, labels = labels, _without_empty(squares, _first_largest(-squares, dim=2))
        if torch.equal(before, labels):
            break
        members = one_hot(labels, clusters).to(grams.dtype)
        sizes = members.sum(dim=1, keepdim=True)
        towards = torch.stack([gram @ member for gram, member in zip(grams, members, strict=True)]) / sizes
        squares = norms.unsqueeze(2) - 2 * towards + (members * towards).sum(dim=1, keepdim=True) / sizes
    return _first_largest(-squares.masked_fill(one_hot(labels, clusters) == 0, torch.inf), dim=1)


def _seeds(grams: Tensor, draws: Tensor) -> Tensor:
    """Distinct indices (P, K), drawn by squared distance to the nearest one so far (Arthur and Vassilvitskii 2007)."""
    import torch

    norms = grams.diagonal(dim1=1, dim2=2)
    nearest = torch.full_like(norms, torch.inf)
    weights = torch.ones_like(norms)
    rows = torch.arange(len(grams))
    seeds = torch.empty(draws.shape, dtype=torch.int64)
    for step, draw in enumerate(draws.double().unbind(dim=1)):
        sums = weights.cumsum(dim=1)
        seed = (sums > draw.unsqueeze(1) * sums[:, -1:]).byte().argmax(dim=1)
        seeds[:, step] = seed
        squares = norms + norms[rows, seed].unsqueeze(1) - 2 * grams[rows, seed]
        nearest = torch.minimum(nearest, squares.clamp(min=0))
        weights = (nearest + LEAST_WEIGHT).scatter(1, seeds[:, : step + 1], 0)
    return seeds


def _without_empty(squares: Tensor, labels: Tensor) -> Tensor:
    """Move the points (P, N) farthest from their centroids into clusters without any, never a cluster's only one."""
    import torch
    from torch.nn.functional import one_hot

    sizes = one_hot(labels, squares.shape[2]).sum(dim=1)
    own = squares.gather(2, labels.unsqueeze(2)).squeeze(2)
    for pixel, cluster in (sizes == 0).nonzero().tolist():
        alone = sizes[pixel, labels[pixel]] < 2
        moved = _first_largest(own[pixel].masked_fill(alone, -torch.inf), dim=0)
        sizes[pixel, labels[pixel, moved]] -= 1
        sizes[pixel, cluster] = 1
        labels[pixel, moved] = cluster
    return labels


def _first_largest(values: Tensor, *, dim: int) -> Tensor:
    from ad_assets.kernels.prototypes import TIE

    return (values >= values.amax(dim, keepdim=True) - TIE).byte().argmax(dim)


def _grams(templates: Tensor, memory_gb: float, device: str) -> Iterator[tuple[slice, Tensor]]:
    """Yield pixels, row by row, and their Gram matrices (p, N, N) float64 on the CPU; the next take their place."""
    from ad_assets.kernels.parallel import spans, threads

    images, channels, height, width = templates.shape
    vectors = templates.flatten(2).permute(2, 0, 1)  # (pixels, N, C)
    per_pixel = gram_bytes(images) + 16 * images * channels
    cached = max(threads(), CHUNK_BYTES // (8 * images**2))
    step = max(1, min(int(memory_gb * 1e9) // per_pixel, cached))
    if device == "cpu":
        return _grams_of_cpu(vectors, spans(height * width, step))
    step -= step % TASK_PIXELS if step > TASK_PIXELS else 0
    return _grams_of_device(vectors, spans(height * width, step), device)


def _grams_of_cpu(vectors: Tensor, parts: list[slice]) -> Iterator[tuple[slice, Tensor]]:
    """A product for each pixel: a batched one may round differently in another batch."""
    import torch

    from ad_assets.kernels.parallel import each

    images = vectors.shape[1]
    kept = vectors.new_empty(parts[0].stop, images, images).double()
    for part in parts:
        grams = kept[: part.stop - part.start]

        def fill(block: tuple[Tensor, Tensor]) -> None:
            some, own = block
            for vector, gram in zip(some.contiguous().double(), own, strict=True):
                torch.mm(vector, vector.T, out=gram)

        list(each(fill, zip(vectors[part].split(TASK_PIXELS), grams.split(TASK_PIXELS), strict=True), "cpu"))
        yield part, grams


def _grams_of_device(vectors: Tensor, parts: list[slice], device: str) -> Iterator[tuple[slice, Tensor]]:
    """Products of blocks of pixels; a thread copies them while the consumer works on those before."""
    import torch

    images = vectors.shape[1]
    with ThreadPoolExecutor(1) as copier:
        before: list[tuple[slice, Future[Tensor]]] = []
        for part in parts:
            grams = torch.empty(part.stop - part.start, images, images, dtype=torch.float64, device=device)
            for block, own in zip(vectors[part].to(device).split(TASK_PIXELS), grams.split(TASK_PIXELS), strict=True):
                some = block.double()
                torch.bmm(some, some.mT, out=own)
            before.append((part, copier.submit(grams.cpu)))
            if len(before) > 1:
                done, copied = before.pop(0)
                yield done, copied.result()
        for done, copied in before:
            yield done, copied.result()


def _on_every_pixel(picks: Tensor, grid: list[int]) -> Tensor:
    return picks.view(-1, 1, 1).expand(-1, *grid).contiguous()


def _check(templates: Tensor, sheets: int, selection: str) -> None:
    import torch

    if templates.ndim != 4 or 0 in templates.shape or not templates.is_floating_point():
        raise ValueError(
            "templates must be (N, C, H, W) floating point and not empty, one map of vectors an image, "
            f"got {templates.dtype} {tuple(templates.shape)}"
        )
    if sheets < 1:
        raise ValueError(f"sheets must be at least 1, got {sheets}: give the number of templates to keep at each pixel")
    if selection not in get_args(Selection):
        raise ValueError(f"unknown selection {selection!r}; choose from: {', '.join(get_args(Selection))}")
    lengths = torch.linalg.vector_norm(templates, dim=1)
    wrong = ~((lengths - 1).abs() <= UNIT_TOLERANCE)
    if wrong.any():
        image, row, column = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"templates must be finite and unit length over C; image {image} at pixel ({row}, {column}) has length "
            f"{float(lengths[image, row, column]):.4g}: use torch.nn.functional.normalize(templates, dim=1), and "
            "leave out images whose features are zero or not finite"
        )
