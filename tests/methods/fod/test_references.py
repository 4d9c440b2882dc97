"""Reference features of FOD against loops over images and places."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ad_assets.methods import Runtime
from ad_assets.methods.fod.references import Kind, Reference
from ad_assets.methods.fod.references_on_device import heaviest, nearest_around
from tests.support.emulated_device import cuda_device

RUNTIME = Runtime()
GRID, IMAGES, SIZE = (4, 5), 7, 6
PLACES = [(i, j) for i in range(GRID[0]) for j in range(GRID[1])]


def nominal(seed: int = 0, images: int = IMAGES) -> torch.Tensor:
    """(N, L, D), places that differ."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 20, SIZE, generator=generator) + 2 * torch.randn(1, 20, SIZE, generator=generator)


def fitted(reference: Reference, tokens: torch.Tensor, batch: int = 3, runtime: Runtime = RUNTIME) -> dict:
    def batches() -> Iterator[torch.Tensor]:
        yield from tokens.split(batch)

    return reference.fit(batches, len(tokens), runtime)


def test_mean() -> None:
    tokens = nominal()
    found = Reference().features(fitted(Reference(), tokens), nominal(1), GRID)
    np.testing.assert_allclose(found, tokens.double().mean(dim=0, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("window", [1, 3, 5, 11])
def test_nearest(window: int) -> None:
    bank, reference = nominal(), Reference(kind="nearest", window=window)
    tensors = fitted(reference, bank)
    test = torch.cat([nominal(1, 2), bank[4:5], bank[4:5]])
    found = reference.features(tensors, test, GRID, torch.tensor([-1, 2, 4, -1]))
    for tokens, hidden, result in zip(test, [-1, 2, 4, -1], found, strict=True):
        for place, (i, j) in enumerate(PLACES):
            near = [
                (float((tokens[place] - bank[n, other]).norm()), n, other)
                for n in range(IMAGES)
                for other, (a, b) in enumerate(PLACES)
                if n != hidden and max(abs(a - i), abs(b - j)) <= window // 2
            ]
            _, n, other = min(near)
            assert torch.equal(result[place], bank[n, other])
    assert torch.equal(found[3], bank[4])
    alone = [reference.features(tensors, one, GRID, None) for one in test.split(1)]
    assert torch.equal(torch.cat(alone), reference.features(tensors, test, GRID))
    for budget in (1.0, 1e-9):  # a GPU takes all rows of the grid at once, or one after another
        assert torch.equal(
            nearest_around(bank.transpose(0, 1).contiguous(), test, GRID, window, [-1, 2, 4, -1], budget), found
        )


@pytest.mark.parametrize("projection", [None, 4])
def test_coreset(projection: int | None) -> None:
    tokens, reference = nominal(), Reference(kind="coreset", projection=projection, seed=3)
    tensors = fitted(reference, tokens)
    assert torch.equal(tensors["rows"], fitted(reference, tokens, batch=7)["rows"])
    patches = tokens.flatten(0, 1)
    picks = [int((patches == row).all(dim=1).nonzero()) for row in tensors["rows"]]
    assert len(set(picks)) == len(PLACES)
    if projection is None:
        for number in range(1, len(picks)):
            distances = torch.cdist(patches.double(), patches[picks[:number]].double()).amin(dim=1)
            assert picks[number] == int(distances.argmax())
    assert reference.features(tensors, nominal(1), GRID).shape == (1, 20, SIZE)


def written(prototypes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One update of the prototypes (M, D) of a place from tokens (N, D) of unit length, equation by equation."""
    w = np.exp(x @ prototypes.T) / np.exp(x @ prototypes.T).sum(axis=1, keepdims=True)
    v = np.exp(x @ prototypes.T) / np.exp(x @ prototypes.T).sum(axis=0, keepdims=True)
    result = []
    for m, prototype in enumerate(prototypes):
        members = [k for k in range(len(x)) if w[k].argmax() == m]
        largest = max((v[k, m] for k in members), default=1.0)
        total = prototype + sum(v[k, m] / largest * x[k] for k in members)
        result.append(total / math.sqrt((total**2).sum()))
    return np.array(result)


def test_prototypes() -> None:
    tokens = nominal()
    reference = Reference(kind="prototype", prototypes=3, passes=2, seed=1)
    found = fitted(reference, tokens)["prototypes"]
    np.testing.assert_allclose(found, fitted(reference, tokens, batch=7)["prototypes"], atol=1e-6)
    start = fitted(Reference(kind="prototype", prototypes=3, passes=0, seed=1), tokens)["prototypes"].double().numpy()
    unit = torch.nn.functional.normalize(tokens.double(), dim=2).numpy()
    for place in range(len(PLACES)):
        assert all((np.abs(unit[:, place] - p).max(axis=1) < 1e-6).any() for p in start[place])
        expected = written(written(start[place], unit[:, place]), unit[:, place])
        np.testing.assert_allclose(found[place], expected, atol=1e-5)
    test = nominal(1, 2)
    given = reference.features({"prototypes": found}, test, GRID)
    for image in range(2):
        for place in range(len(PLACES)):
            cosines = torch.cosine_similarity(test[image, place], found[place], dim=1)
            assert torch.equal(given[image, place], found[place, cosines.argmax()])
    assert torch.equal(heaviest(found, test), given)


@pytest.mark.parametrize("kind", ["nearest", "prototype"])
def test_a_device_is_asked_once_for_a_batch(kind: Kind) -> None:
    reference = Reference(kind=kind, prototypes=3)
    tensors, launches = fitted(reference, nominal()), []
    with cuda_device() as device:
        there = {name: tensor.to(device) for name, tensor in tensors.items()}
        for images in (1, 6):
            test = nominal(1, images)
            device.counts.reset()
            found = reference.features(there, test.to(device), GRID)
            launches.append(device.counts.launches)
            assert torch.equal(found.cpu(), reference.features(tensors, test, GRID))
    assert launches[0] == launches[1] < 80


def test_codebook() -> None:
    tokens = nominal()
    reference = Reference(kind="codebook", codes=8, passes=3, seed=2)
    found = fitted(reference, tokens)["codes"]
    np.testing.assert_allclose(found, fitted(reference, tokens, batch=7)["codes"], atol=1e-6)
    codes = fitted(Reference(kind="codebook", codes=8, passes=0, seed=2), tokens)["codes"]
    rows = tokens.flatten(0, 1)
    assert all((rows == code).all(dim=1).any() for code in codes)
    codes = codes.double()
    for _ in range(3):
        chosen = torch.cdist(rows.double(), codes).argmin(dim=1)
        codes = torch.stack(
            [rows[chosen == k].double().mean(dim=0) if (chosen == k).any() else codes[k] for k in range(8)]
        )
    np.testing.assert_allclose(found, codes, atol=1e-5)
    test = nominal(1, 2)
    given = reference.features({"codes": found}, test, GRID)
    assert torch.equal(given, found[torch.cdist(test, found).argmin(dim=2)])


@pytest.mark.parametrize(
    ("reference", "runtime", "message"),
    [
        (Reference(kind="coreset"), Runtime("cuda:0", device_memory_gb=1e-6), "select from .*compute.device_memory_gb"),
        (Reference(kind="prototype", prototypes=8), RUNTIME, "prototypes must be 1..7"),
        (Reference(kind="codebook", codes=141), RUNTIME, "codes must be 1..140"),
        (Reference(kind="nearest", window=2), RUNTIME, "window must be odd"),
    ],
)
def test_refused(reference: Reference, runtime: Runtime, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(reference, nominal(), runtime=runtime)


def test_an_only_image_has_no_other() -> None:
    reference = Reference(kind="nearest")
    tensors = fitted(reference, nominal(0, 1))
    with pytest.raises(ValueError, match="there is none"):
        reference.features(tensors, nominal(0, 1), GRID, torch.tensor([0]))
