"""SimpleNet's head: adaptor, noise, discriminator, and the gradient of one training step (equations 5 to 8), by hand.

    q = adaptor(x)    h = W1 q + b1 and W1 (q + noise) + b1    z = BN(h)    D = w2 . leaky(z)

The batch norm takes true and noisy rows as one batch. Its barrier splits the step into four passes over images, each a
task that stays in cache and computes alone, so a step does not depend on the number of threads. What the algebra saves
over automatic differentiation, half of all multiplications with an adaptor of one layer:

- the adaptor's last layer V and W1 are both linear, so rows meet their product W1 V alone. With M the sum over rows of
  (gradient at h) x' their gradients are W1' M and M V', plus the noise's part in W1's;
- the noise meets W1 by itself, hence both halves share one product, and one gradient that goes back to the adaptor;
- leaky's slopes, the sums for the batch norm and those for w2 are two products with the gradient of the scores, and no
  (rows, hidden) tensor but h is ever kept.

Biases ahead of the batch norm have gradient zero: they shift all rows alike. It is left at exactly zero here, where
differentiation leaves rounding noise, of which Adam makes steps of full length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ad_assets.kernels.parallel import each

SLOPE = 0.2
ROWS = 256  # of a block: h of so many rows and 1,024 hidden units is 1 MB
DEVICE_ROWS = 1 << 16  # of a block elsewhere: 256 MB

Loss = Literal["truncated", "cross_entropy"]


@dataclass(frozen=True)
class HeadWeights:
    """Weights, all of one dtype and device.

    Args:
        adaptor: linear layers with a leaky ReLU between, each a weight (out, in) and a bias (out,) or None; may be
            empty.
        first: W1 (H, D) and b1 (H,).
        norm: scale and shift (H,), running mean and variance (H,).
        last: w2 (1, H).
        eps: of the batch norm.
        momentum: of its running values.
    """

    adaptor: list[tuple[Tensor, Tensor | None]]
    first: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor, Tensor, Tensor]
    last: Tensor
    eps: float = 1e-5
    momentum: float = 0.1

    def gradients(self) -> list[Tensor]:
        """Zeros like W1, scale, shift, w2 and the adaptor's layers' weights and first biases, in this order."""
        trained = [self.first[0], *self.norm[:2], self.last]
        for number, (weight, bias) in enumerate(self.adaptor):
            trained.append(weight)
            if bias is not None and number < len(self.adaptor) - 1:
                trained.append(bias)
        return [torch.zeros_like(tensor) for tensor in trained]

    def assign(self, gradients: Sequence[Tensor]) -> None:
        """Set ``.grad`` of all weights; of the biases ahead of the batch norm to zero."""
        left = iter(gradients)
        for tensor in (self.first[0], *self.norm[:2], self.last):
            tensor.grad = next(left)
        self.first[1].grad = torch.zeros_like(self.first[1])
        for number, (weight, bias) in enumerate(self.adaptor):
            weight.grad = next(left)
            if bias is not None:
                bias.grad = next(left) if number < len(self.adaptor) - 1 else torch.zeros_like(bias)


@dataclass(frozen=True)
class StepResult:
    """What one step saw: mean loss, and the shares of true and noisy rows on the right side of their margin."""

    loss: Tensor
    true_share: Tensor
    noisy_share: Tensor


@dataclass
class _Image:
    """What the passes keep of one image: layers' inputs, noise, h of both halves, gradients at their scores."""

    inputs: list[Tensor]
    noise: Tensor
    halves: tuple[Tensor, Tensor]
    score_gradients: tuple[Tensor, Tensor]


class Arithmetic:
    """Products in a precision; sums stay float32 (or the tensors' float64)."""

    def __init__(self, precision: Literal["float32", "bfloat16"] = "float32") -> None:
        self._half = precision == "bfloat16"

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a b."""
        return (a.bfloat16() @ b.bfloat16()).to(a.dtype) if self._half else a @ b


def training_step(
    head: HeadWeights,
    images: Sequence[Tensor],
    draw: Callable[[int], Tensor],
    *,
    margin: float = 0.5,
    loss: Loss = "truncated",
    arithmetic: Arithmetic | None = None,
) -> StepResult:
    """Set the gradients of the mean loss over all rows, and move the running mean and variance.

    Args:
        head: weights; their ``.grad`` is replaced.
        images: features (P, D) of each image of the batch.
        draw: from an image's position in the batch to its noise (P, D), scaled; called once, on any thread.
        margin: th of equation 7: true rows should score above it, noisy ones below its negative.
        loss: equation 7, or binary cross entropy of the scores (table 3).
        arithmetic: of the products.

    Raises:
        ValueError: no rows.
    """
    rows = sum(len(image) for image in images)
    if not rows:
        raise ValueError("a training step needs at least one patch")
    with torch.no_grad():
        return _Step(head, rows, margin, loss, arithmetic or Arithmetic()).run(images, draw)


def device_bytes(rows: int, dimensions: int, hidden_units: int, layers: int) -> int:
    """The most that a step holds on a GPU, weights left aside: an upper bound of what the emulated device counts.

    Args:
        rows: of all images of the batch.
        dimensions: D of a row.
        hidden_units: H of the discriminator.
        layers: of the adaptor.
    """
    return 4 * rows * ((8 + 2 * max(0, layers - 1)) * dimensions + 6 * hidden_units)


def _block(device: str) -> int:
    """Rows of a block: what stays in the cache of a core, or what keeps another device busy."""
    return ROWS if device == "cpu" else DEVICE_ROWS


class _Step:
    def __init__(self, head: HeadWeights, rows: int, margin: float, loss: Loss, arithmetic: Arithmetic) -> None:
        self._head, self._rows, self._margin, self._loss, self._arithmetic = head, rows, margin, loss, arithmetic
        # What the input of the adaptor's last layer, or of W1 where there is none, is multiplied with to become h.
        self._weight, self._bias = head.first
        self._block = _block(head.last.device.type)
        if head.adaptor:
            weight, bias = head.adaptor[-1]
            self._weight = self._in_blocks(head.first[0], weight)
            if bias is not None:
                self._bias = self._in_blocks(head.first[0], bias[:, None])[:, 0] + head.first[1]

    def run(self, images: Sequence[Tensor], draw: Callable[[int], Tensor]) -> StepResult:
        head = self._head
        scale, shift, running_mean, running_variance = head.norm
        last, both, device = head.last[0], 2 * self._rows, head.last.device.type
        if device != "cpu":  # one product of the batch; on a CPU every image is a task
            whole = torch.cat([draw(place) for place in range(len(images))])
            images, draw = [torch.cat(list(images))], lambda _: whole
        kept: list[_Image] = []
        total = torch.zeros_like(last, dtype=torch.float64)
        for image, sums in each(lambda place: self._forward(images[place], draw(place)), range(len(images)), device):
            kept.append(image)
            total = total + sums
        mean = total / both
        squares = torch.zeros_like(total)
        for sums in each(lambda image: self._centre(image, mean), kept, device):
            squares = squares + sums
        variance = squares / both
        deviation = (variance + head.eps).sqrt()
        weighted = scale / deviation
        found = [torch.zeros_like(last, dtype=torch.float64) for _ in range(2)]
        seen = torch.zeros(3, dtype=torch.float64, device=last.device)
        for slopes, slopes_h, losses in each(lambda image: self._score(image, weighted), kept, device):
            found = [found[0] + slopes, found[1] + slopes_h]
            seen = seen + losses
        # Sums over rows of the gradient at z, alone and times the normalised h.
        slopes, slopes_h = found[0].to(last.dtype), (found[1] / deviation).to(last.dtype)
        of_shift, of_scale = last * slopes, last * slopes_h
        gradients = head.gradients()
        means = of_shift / both, of_scale / both / deviation.to(last.dtype)
        outer, (of_first, *of_layers) = torch.zeros_like(self._weight), [gradients[0], *gradients[4:]]
        if head.adaptor:
            *of_layers, of_last = of_layers
        for parts in each(lambda image: self._backward(image, weighted, means), kept, device):
            for gradient, part in zip([outer, of_first, *of_layers], parts, strict=True):
                gradient += part
        if head.adaptor:
            of_last += self._in_blocks(head.first[0].T, outer)
            outer = self._in_blocks(outer, head.adaptor[-1][0].T)
        of_first += outer
        gradients[1] += of_scale
        gradients[2] += of_shift
        gradients[3] += (scale * slopes_h + shift * slopes)[None]
        head.assign(gradients)
        # The running variance is the unbiased one.
        running_mean.lerp_(mean.to(running_mean), head.momentum)
        running_variance.lerp_((squares / (both - 1)).to(running_variance), head.momentum)
        return StepResult(*seen.unbind())

    def _in_blocks(self, a: Tensor, b: Tensor) -> Tensor:
        """a b, a few rows a task, so that it does not depend on the number of threads either."""
        blocks = each(lambda block: self._arithmetic.product(block, b), a.split(self._block), a.device.type)
        return torch.cat(list(blocks))

    def _forward(self, rows: Tensor, noise: Tensor) -> tuple[_Image, Tensor]:
        """h of both halves, and its sum over rows."""
        inputs = adapted(self._head.adaptor[:-1], rows, self._arithmetic)
        true = self._arithmetic.product(inputs[-1], self._weight.T).add_(self._bias)
        noisy = self._arithmetic.product(noise, self._head.first[0].T).add_(true)
        sums = true.sum(dim=0).double() + noisy.sum(dim=0)
        return _Image(inputs, noise, (true, noisy), (true.new_empty(len(true)), true.new_empty(len(true)))), sums

    def _centre(self, image: _Image, mean: Tensor) -> Tensor:
        """Take the mean off h; the sum of squares."""
        total = torch.zeros_like(mean)
        for half in image.halves:
            for block in half.split(self._block):
                block -= mean.to(block.dtype)
                total += block.square().sum(dim=0)
        return total

    def _score(self, image: _Image, weighted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores and their gradients; of the leaky ReLU's slopes m: sums of gradient * m and gradient * m * h."""
        _, shift = self._head.norm[:2]
        last = self._head.last[0]
        weighted = weighted.to(last.dtype)
        slopes, slopes_h = torch.zeros_like(last), torch.zeros_like(last)
        losses = torch.zeros(3, dtype=torch.float64, device=last.device)
        for sign, half, out in zip((1, -1), image.halves, image.score_gradients, strict=True):
            for block, gradient in zip(half.split(self._block), out.split(self._block), strict=True):
                m = _slopes(block, weighted, shift)
                mh = m * block
                scores = mh @ (weighted * last) + m @ (shift * last)
                value, own = self._loss_of(scores, sign)
                gradient.copy_(own / self._rows)
                slopes.addmv_(m.T, gradient)
                slopes_h.addmv_(mh.T, gradient)
                right = (scores >= self._margin if sign > 0 else scores < -self._margin).sum() / self._rows
                losses += torch.stack([value.sum() / self._rows, *((right, right * 0)[::sign])]).double()
        return slopes.double(), slopes_h.double(), losses

    def _loss_of(self, scores: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        """Loss of every row and its derivative; `sign` 1 for true rows, -1 for noisy ones."""
        if self._loss == "truncated":
            lack = self._margin - sign * scores
            return lack.clamp(min=0), -sign * (lack > 0).to(scores.dtype)
        logits = -sign * scores
        return torch.nn.functional.softplus(logits), -sign * logits.sigmoid()

    def _backward(self, image: _Image, weighted: Tensor, means: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Gradients of W1 and of the adaptor's layers."""
        head, arithmetic = self._head, self._arithmetic
        weighted = weighted.to(head.last.dtype)
        for half, gradient in zip(image.halves, image.score_gradients, strict=True):
            for block, own in zip(half.split(self._block), gradient.split(self._block), strict=True):
                m = _slopes(block, weighted, head.norm[1])
                m.mul_(head.last[0]).mul_(own[:, None]).sub_(means[0])
                block.mul_(-means[1]).add_(m).mul_(weighted)
        true, noisy = image.halves
        together = true.add_(noisy)
        found = [arithmetic.product(together.T, image.inputs[-1]), arithmetic.product(noisy.T, image.noise)]
        if len(head.adaptor) < 2:
            return found
        return [*found, *self._behind(image.inputs, together)]

    def _behind(self, inputs: list[Tensor], gradient: Tensor) -> list[Tensor]:
        """Of weights and biases of the adaptor's layers but the last, shallow to deep; `gradient` is the one at h."""
        found: list[Tensor] = []
        back = self._arithmetic.product(gradient, self._weight)
        for number in reversed(range(len(self._head.adaptor) - 1)):
            back = torch.where(inputs[number + 1] > 0, back, back * SLOPE)
            own = [self._arithmetic.product(back.T, inputs[number])]
            weight, bias = self._head.adaptor[number]
            if bias is not None:
                own.append(back.sum(dim=0))
            found = own + found
            back = self._arithmetic.product(back, weight) if number else back
        return found


def _slopes(h: Tensor, weighted: Tensor, shift: Tensor) -> Tensor:
    """1 where z = h weighted + shift is positive, else the slope; h is centred."""
    positive = torch.addcmul(shift, h, weighted).gt_(0)
    return positive.mul_(1 - SLOPE).add_(SLOPE)


def adapted(adaptor: Sequence[tuple[Tensor, Tensor | None]], rows: Tensor, arithmetic: Arithmetic) -> list[Tensor]:
    """Rows (P, D), and what follows each of the adaptor's layers (equation 5); of all layers but the last."""
    inputs = [rows]
    for weight, bias in adaptor:
        hidden = arithmetic.product(inputs[-1], weight.T)
        inputs.append(torch.nn.functional.leaky_relu(hidden if bias is None else hidden.add_(bias), SLOPE))
    return inputs


def folded(head: HeadWeights) -> tuple[Tensor, Tensor]:
    """The head in evaluation, as few products as it takes.

    Returns:
        W (H, D) and b (H,), so that D = w2 . leaky(W x + b), x the input of the adaptor's last layer: W and b hold that
        layer and the running values.
    """
    scale, shift, running_mean, running_variance = (tensor.double() for tensor in head.norm)
    factor = scale / (running_variance + head.eps).sqrt()
    weight = head.first[0].double() * factor[:, None]
    bias = (head.first[1].double() - running_mean) * factor + shift
    if head.adaptor:
        own, own_bias = head.adaptor[-1]
        bias = bias + (weight @ own_bias.double() if own_bias is not None else 0)
        weight = weight @ own.double()
    return weight.to(head.last.dtype), bias.to(head.last.dtype)


def patch_scores(
    adaptor: list[tuple[Tensor, Tensor | None]], first: tuple[Tensor, Tensor], last: Tensor, patches: Tensor
) -> Tensor:
    """Anomaly scores (equation 9) of patches (B, P, D) by a folded head, as (B, P).

    Args:
        adaptor: its layers but the last, which is in `first`; none where there is none.
        first: W and b of `folded`.
        last: w2 (1, H).
        patches: of B images.
    """
    arithmetic = Arithmetic()

    def score(image: Tensor) -> Tensor:
        blocks = []
        for block in image.split(_block(image.device.type)):
            x = adapted(adaptor, block, arithmetic)[-1]
            hidden = torch.addmm(first[1], x, first[0].T)
            blocks.append(-(torch.nn.functional.leaky_relu_(hidden, SLOPE) @ last[0]))
        return torch.cat(blocks)

    if patches.device.type != "cpu":
        return score(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
    return torch.stack(list(each(score, patches, "cpu")))
