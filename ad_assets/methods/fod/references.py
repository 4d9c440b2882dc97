"""Reference features of FOD's inter branch (Yao et al., Focus the Discrepancy, ICCV 2023, appendix B.3, table 15).

``mean``: of the nominal tokens of a place. ``nearest``: the nominal token nearest to the input's, among those of all
images within a window around its place (equations 14 and 15). ``coreset``: so many tokens as there are places, by
greedy k-centre selection from all images (equations 16 and 17), in the order of the picks, so that a row says nothing
of a place, though its target does. ``prototype``: of a place's prototypes the one the input weighs most (equations 18
to 21). ``codebook``: the code nearest to the input's token (equations 22 and 23).

What the paper leaves open, and what is done:

- prototypes: similarities are cosines in its text and products in its equations; tokens are normalised, so that these
  agree, and prototypes have unit length. They start at the tokens of images drawn with the seed, and every pass writes
  each of them once, from all images: k runs over the training set;
- codebook: tokens are frozen, so of equation 23 only the middle term moves the codes. The decoder's gradient is copied
  past them to the encoder, which does not learn; so the decoder trains for itself alone, and is left out. The middle
  term, squared as in vector quantisation, is least where a code is the mean of its tokens: k-means by Lloyd's passes,
  from tokens drawn with the seed; a code that no token is nearest to stays where it is.

Tokens come batch by batch and may be asked for several times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ad_assets.kernels.coreset import greedy_coreset
from ad_assets.kernels.coverage import random_projection
from ad_assets.kernels.nearest.bounds import full_precision
from ad_assets.kernels.nearest.search import nearest
from ad_assets.methods.fod.references_on_device import heaviest, nearest_around
from ad_assets.methods.runtime import Runtime

TOKENS = "the tokens of all images"
Kind = Literal["mean", "nearest", "coreset", "prototype", "codebook"]
Batches = Callable[[], Iterable[Tensor]]  # of tokens (B, L, D) float32, in the same order at every call


@dataclass(frozen=True)
class Reference:
    """How reference features are made.

    Args:
        kind: see the head of the module.
        window: side of the window of ``nearest`` in places, odd.
        prototypes: M of a place, at most as many as there are images.
        codes: of the codebook, at most as many as there are tokens.
        passes: over the images, of ``prototype`` and ``codebook``.
        projection: dimensions that ``coreset`` is selected in, on a random projection; None: the tokens'.
        seed: of random choices.
    """

    kind: Kind = "mean"
    window: int = 3
    prototypes: int = 5
    codes: int = 512
    passes: int = 10
    projection: int | None = 128
    seed: int = 0

    def fit(self, batches: Batches, images: int, runtime: Runtime) -> dict[str, Tensor]:
        """Tensors, on the CPU, that `features` takes.

        Args:
            batches: tokens of the nominal images.
            images: how many there are, at least one.
            runtime: device and memory budget.

        Raises:
            ValueError: more prototypes than images, more codes than tokens, an even window, or more than the budget.
        """
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"window must be odd, got {self.window}")
        made: dict[Kind, Callable[[], dict[str, Tensor]]] = {
            "mean": lambda: {"mean": _mean(_on(batches, runtime), images)},
            "nearest": lambda: {"bank": self._bank(batches, images, runtime)},
            "coreset": lambda: {"rows": self._coreset(batches, images, runtime)},
            "prototype": lambda: {"prototypes": self._prototypes(batches, images, runtime)},
            "codebook": lambda: {"codes": self._codes(batches, images, runtime)},
        }
        with torch.no_grad(), full_precision():
            return made[self.kind]()

    def bytes_each(self, places: int, channels: int) -> int:
        """What `fit` holds of every image at once; 0: nothing."""
        narrow = channels if self.projection is None else min(channels, self.projection)
        return 4 * places * {"nearest": channels, "coreset": narrow}.get(self.kind, 0)

    def features(
        self,
        tensors: dict[str, Tensor],
        tokens: Tensor,
        grid: tuple[int, int],
        own: Tensor | None = None,
        *,
        memory_gb: float = 1.0,
    ) -> Tensor:
        """Reference features (1 or B, L, D) of inputs; an image's do not depend on the others.

        A CPU takes one image after another, other devices the batch at once.

        Args:
            tensors: of `fit`, on the device of the tokens.
            tokens: (B, H W, D) float32.
            grid: H and W.
            own: (B,) int64, which of the nominal images an input is, in the order of `fit`, -1: none. ``nearest``
                leaves the image itself out: it would be its own reference. What the others took from one image
                cannot be taken out again.
            memory_gb: budget in GB of temporary tensors on the device of the tokens.

        Raises:
            ValueError: the image itself is all that ``nearest`` has.
        """
        with torch.no_grad(), full_precision():
            if self.kind in ("mean", "coreset"):
                return tensors["mean" if self.kind == "mean" else "rows"].unsqueeze(0)
            if self.kind == "codebook":
                _, chosen = nearest(tokens.flatten(0, 1), tensors["codes"], 1, memory_gb=memory_gb)
                return tensors["codes"][chosen[:, 0]].unflatten(0, tokens.shape[:2])
            by_image = tokens.device.type == "cpu"
            if self.kind == "prototype":
                prototypes = tensors["prototypes"]
                return (
                    torch.cat([_heaviest(prototypes, one) for one in tokens])
                    if by_image
                    else heaviest(prototypes, tokens)
                )
            skipped, bank = [-1] * len(tokens) if own is None else own.tolist(), tensors["bank"]
            if bank.shape[1] == 1 and 0 in skipped:
                raise ValueError(
                    "the nearest features of an image come from other images, and there is none: use the mean"
                )
            if not by_image:
                return nearest_around(bank, tokens, grid, self.window, skipped, memory_gb)
            return torch.stack(
                [_nearest(bank, one, grid, self.window, skip) for one, skip in zip(tokens, skipped, strict=True)]
            )

    def _bank(self, batches: Batches, images: int, runtime: Runtime) -> Tensor:
        """(L, N, D): all tokens, those of a place together."""
        places, size = _sample(batches).shape[1:]
        bank, first = runtime.empty(TOKENS, places, images, size), 0
        for tokens in batches():
            bank[:, first : first + len(tokens)] = tokens.transpose(0, 1).cpu()
            first += len(tokens)
        return bank

    def _coreset(self, batches: Batches, images: int, runtime: Runtime) -> Tensor:
        """(L, D): rows in the order of the picks, the first drawn with the seed; only projected tokens are all held."""
        places, size = _sample(batches).shape[1:]
        narrow = size if self.projection is None else min(size, self.projection)
        parts = f"{images} images of {places} places, {narrow} float32"
        remedy = "select on a narrower projection, or use the mean as reference"
        if runtime.device.startswith("cpu"):
            seen = runtime.empty(TOKENS, images * places, narrow)
        else:
            runtime.check_device("the tokens to select from", 4e-9 * images * places * narrow, parts, remedy)
            seen = torch.empty(images * places, narrow, device=runtime.device)
        for first, rows in _numbered(_on(batches, runtime)):
            seen[first : first + len(rows)] = (
                rows if narrow == size else random_projection(rows, narrow, seed=self.seed)
            )
        start = int(torch.randint(len(seen), (), generator=torch.Generator().manual_seed(self.seed)))
        picks = greedy_coreset(seen, places, start=start, memory_gb=runtime.budget_gb(seen.device)).cpu()
        chosen = torch.empty(places, size)
        for first, rows in _numbered(batches):
            here = (picks >= first) & (picks < first + len(rows))
            chosen[here] = rows[picks[here] - first].cpu()
        return chosen

    def _prototypes(self, batches: Batches, images: int, runtime: Runtime) -> Tensor:
        """(L, M, D), equations 18 to 21."""
        if not 1 <= self.prototypes <= images:
            raise ValueError(f"prototypes must be 1..{images}, the number of nominal images, got {self.prototypes}")
        generator = torch.Generator().manual_seed(self.seed)
        starts = torch.randperm(images, generator=generator)[: self.prototypes]
        prototypes = functional.normalize(_images(_on(batches, runtime), starts).transpose(0, 1), dim=2)
        for number in range(self.passes):
            prototypes = _written(prototypes, _on(batches, runtime))
            runtime.report("passes over the images for prototypes", number + 1, self.passes)
        return prototypes.cpu()

    def _codes(self, batches: Batches, images: int, runtime: Runtime) -> Tensor:
        """(codes, D) float32."""
        places, size = _sample(batches).shape[1:]
        if not 1 <= self.codes <= images * places:
            raise ValueError(f"codes must be 1..{images * places}, the number of tokens, got {self.codes}")
        generator = torch.Generator().manual_seed(self.seed)
        starts = torch.randperm(images * places, generator=generator)[: self.codes]
        codes = torch.empty(self.codes, size, device=runtime.device)
        for first, rows in _numbered(_on(batches, runtime)):
            here = ((starts >= first) & (starts < first + len(rows))).to(rows.device)
            codes[here] = rows[starts.to(rows.device)[here] - first]
        for number in range(self.passes):
            sums = torch.zeros(self.codes, size, dtype=torch.float64, device=runtime.device)
            counts = torch.zeros(self.codes, dtype=torch.float64, device=runtime.device)
            for _, rows in _numbered(_on(batches, runtime)):
                _, chosen = nearest(rows, codes, 1, memory_gb=runtime.budget_gb(rows.device))
                sums.index_add_(0, chosen[:, 0], rows.double())
                counts += chosen[:, 0].bincount(minlength=self.codes)
            moved = torch.where(counts[:, None] > 0, (sums / counts.clamp(min=1)[:, None]).float(), codes)
            runtime.report("passes over the images for codes", number + 1, self.passes)
            if torch.equal(moved, codes):
                break
            codes = moved
        return codes.cpu()


def _on(batches: Batches, runtime: Runtime) -> Batches:
    return lambda: (tokens.to(runtime.device) for tokens in batches())


def _sample(batches: Batches) -> Tensor:
    return next(iter(batches()))


def _numbered(batches: Batches) -> Iterator[tuple[int, Tensor]]:
    """Yield (number of the first, tokens (n, D)) of all images, in order."""
    first = 0
    for tokens in batches():
        yield first, tokens.flatten(0, 1)
        first += len(tokens) * tokens.shape[1]


def _images(batches: Batches, wanted: Tensor) -> Tensor:
    """The tokens (n, L, D) of images by number."""
    found: dict[int, Tensor] = {}
    first, numbers = 0, wanted.tolist()
    for tokens in batches():
        found |= {number: tokens[number - first] for number in numbers if first <= number < first + len(tokens)}
        first += len(tokens)
    return torch.stack([found[number] for number in numbers])


def _mean(batches: Batches, images: int) -> Tensor:
    """(L, D) float32 on the CPU; summed in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for tokens in batches():
        total = total.to(tokens.device) + tokens.sum(dim=0, dtype=torch.float64)
    return (total / images).float().cpu()


def _written(prototypes: Tensor, batches: Batches) -> Tensor:
    """One update (equations 19 to 21) of prototypes (L, M, D).

    Of the softmax over images in equation 20 equation 21 leaves exp(x p - the largest x p of those in U), for the
    denominators cancel. The largest is not known before all batches are seen: sums are rescaled whenever it grows.
    """
    largest = torch.full(prototypes.shape[:2], -torch.inf, device=prototypes.device)
    sums = torch.zeros_like(prototypes)
    for tokens in batches():
        x = functional.normalize(tokens, dim=2).transpose(0, 1)  # (L, B, D)
        products = torch.bmm(x, prototypes.mT)
        belongs = functional.one_hot(products.argmax(dim=2), prototypes.shape[1]).bool()
        products = products.masked_fill(~belongs, -torch.inf)
        grown = torch.maximum(largest, products.amax(dim=1))
        finite = grown.clamp(min=-1)  # nothing belongs to it yet; cosines are not below
        sums = sums * (largest - finite).exp().unsqueeze(2) + torch.bmm((products - finite[:, None]).exp().mT, x)
        largest = grown
    return functional.normalize(prototypes + sums, dim=2)


def _heaviest(prototypes: Tensor, tokens: Tensor) -> Tensor:
    """(1, L, D): the prototype of its place with the largest weight (equation 18) for each of the tokens (L, D)."""
    products = torch.bmm(prototypes, functional.normalize(tokens, dim=1).unsqueeze(2)).squeeze(2)
    return prototypes[torch.arange(len(tokens), device=tokens.device), products.argmax(dim=1)].unsqueeze(0)


def _nearest(bank: Tensor, tokens: Tensor, grid: tuple[int, int], window: int, skipped: int) -> Tensor:
    """(L, D): for each of the tokens (L, D) the nearest in the windows of all images but one; -1: of all.

    Every place of the bank is read once, against the inputs of all places it may serve. Products choose: of two tokens
    that float32 cannot tell from equally near either may come.
    """
    height, width = grid
    images, reach = bank.shape[1], window // 2
    rows = bank.unflatten(0, grid)
    padded = functional.pad(tokens.unflatten(0, grid), (0, 0, reach, reach, reach, reach))
    best = torch.full((height + 2 * reach, width + 2 * reach), torch.inf, device=bank.device)
    chosen = torch.zeros(best.shape, dtype=torch.int64, device=bank.device)
    for row in range(height):
        norms = rows[row].square().sum(dim=2)
        if skipped >= 0:
            norms[:, skipped] = torch.inf
        # (W, D, window, window): what lies around each place of the row.
        around = padded[row : row + window].unfold(1, window, 1).permute(1, 2, 0, 3)
        squares = torch.baddbmm(norms.unsqueeze(2), rows[row], around.flatten(2), alpha=-2)
        least, image = (found.unflatten(1, (window, window)) for found in squares.min(dim=1))
        place = (row * width + torch.arange(width, device=bank.device)) * images
        for down in range(window):
            for across in range(window):
                at = (row + down, slice(across, across + width))
                nearer = least[:, down, across] < best[at]
                best[at] = torch.where(nearer, least[:, down, across], best[at])
                chosen[at] = torch.where(nearer, place + image[:, down, across], chosen[at])
    inside = chosen[reach : reach + height, reach : reach + width].flatten()
    return bank.flatten(0, 1)[inside]
