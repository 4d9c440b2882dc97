"""The hand-made training step of SimpleNet against automatic differentiation of the formulas, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as f

from ad_assets.kernels.discriminator import Arithmetic, HeadWeights, folded, patch_scores, training_step
from ad_assets.kernels.parallel import threads as current_threads
from ad_assets.kernels.parallel import use_threads

SIZES = (37, 300, 5)  # patches of each image: less than a block, more than one, hardly any
D, H = 12, 20


def make_head(layers: int, *, dtype: torch.dtype = torch.float64, bias: bool = True) -> HeadWeights:
    """Random weights."""
    generator = torch.Generator().manual_seed(layers)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    adaptor = [(draw(D, D), draw(D) if bias else None) for _ in range(layers)]
    norm = (1 + 0.3 * draw(H), 0.5 * draw(H), draw(H), 0.5 + draw(H).square())
    return HeadWeights(adaptor, (draw(H, D), draw(H)), norm, draw(1, H))


def images(dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], list[Tensor]]:
    """Features and noise."""
    generator = torch.Generator().manual_seed(5)
    draw = [torch.randn(size, D, generator=generator, dtype=torch.float64).to(dtype) for size in (*SIZES, *SIZES)]
    return draw[:3], [0.4 * noise for noise in draw[3:]]


def trained(head: HeadWeights) -> list[Tensor]:
    """All tensors that have gradients."""
    return [*head.first, *head.norm[:2], head.last, *(t for layer in head.adaptor for t in layer if t is not None)]


def by_differentiation(
    head: HeadWeights, rows: Tensor, noise: Tensor, margin: float, loss: str
) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradients from torch's own modules, on one batch of all rows."""
    parameters = [tensor.clone().requires_grad_() for tensor in trained(head)]
    first, bias, scale, shift, last = parameters[:5]
    left = iter(parameters[5:])
    q = rows
    for number, (_, own_bias) in enumerate(head.adaptor):
        q = f.leaky_relu(q, 0.2) if number else q
        q = f.linear(q, next(left), None if own_bias is None else next(left))
    both = torch.cat([q, q + noise])
    mean, variance = head.norm[2].clone(), head.norm[3].clone()
    z = f.batch_norm(f.linear(both, first, bias), mean, variance, scale, shift, training=True, momentum=head.momentum)
    true, noisy = f.linear(f.leaky_relu(z, 0.2), last)[:, 0].chunk(2)
    if loss == "truncated":
        value = (margin - true).clamp(min=0).mean() + (margin + noisy).clamp(min=0).mean()
    else:
        labels = torch.cat([torch.ones_like(true), torch.zeros_like(noisy)])
        value = 2 * f.binary_cross_entropy_with_logits(torch.cat([true, noisy]), labels)
    value.backward()
    return value.detach(), [*(p.grad for p in parameters if p.grad is not None), mean, variance]


@pytest.mark.parametrize("loss", ["truncated", "cross_entropy"])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_step_has_the_gradients_of_the_formulas(layers: int, loss: str) -> None:
    head = make_head(layers, bias=layers != 1)
    rows, noise = images()
    value, expected = by_differentiation(head, torch.cat(rows), torch.cat(noise), 0.7, loss)
    result = training_step(head, rows, noise.__getitem__, margin=0.7, loss=loss)  # type: ignore[arg-type]
    assert float(result.loss) == pytest.approx(float(value), rel=1e-12)
    found = [tensor.grad for tensor in trained(head)] + list(head.norm[2:])
    for own, theirs in zip(found, expected, strict=True):
        assert own is not None
        torch.testing.assert_close(own, theirs, rtol=1e-10, atol=1e-12)


def test_neither_threads_nor_the_order_of_blocks_change_a_step() -> None:
    rows, noise = images(torch.float32)
    threads, found = current_threads(), []
    try:
        for count in (1, 2, 3):
            use_threads(count)
            head = make_head(1, dtype=torch.float32)
            training_step(head, rows, noise.__getitem__)
            found.append([tensor.grad for tensor in trained(head)] + list(head.norm))
    finally:
        use_threads(threads)
    # The product of both linear layers is split among threads as well, in blocks that do not follow their number.
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_folded_head_scores_as_the_layers_do(layers: int) -> None:
    head = make_head(layers)
    rows = torch.randn(2, 70, D, dtype=torch.float64)
    q = rows
    for number, (weight, bias) in enumerate(head.adaptor):
        q = f.linear(f.leaky_relu(q, 0.2) if number else q, weight, bias)
    scale, shift, mean, variance = head.norm
    z = (f.linear(q, *head.first) - mean) / (variance + head.eps).sqrt() * scale + shift
    expected = -f.linear(f.leaky_relu(z, 0.2), head.last)[..., 0]
    torch.testing.assert_close(patch_scores(head.adaptor[:-1], folded(head), head.last, rows), expected)


def test_half_precision_is_close_and_no_row_is_an_error() -> None:
    rows, noise = images(torch.float32)
    full, half = make_head(1, dtype=torch.float32), make_head(1, dtype=torch.float32)
    training_step(full, rows, noise.__getitem__)
    training_step(half, rows, noise.__getitem__, arithmetic=Arithmetic("bfloat16"))
    ours, theirs = full.first[0].grad, half.first[0].grad
    assert ours is not None
    assert theirs is not None
    assert 0 < (ours - theirs).norm() / ours.norm() < 0.05
    with pytest.raises(ValueError, match="at least one patch"):
        training_step(full, [torch.zeros(0, D)], noise.__getitem__)
