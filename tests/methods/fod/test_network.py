"""FOD's network against the recorded one of the authors, the paper's parameter counts, switches, and losses."""

import numpy as np
import pytest
import torch

from ad_assets.methods.fod.network import (
    BRANCHES,
    LevelNetwork,
    direct_loss,
    phase_losses,
    position_code,
    reconstruction_loss,
    two_phase_loss,
)
from ad_assets.methods.fod.scores import errors, patch_scores, weights
from tests.support.fixtures import fixture

NAMES = {
    "ref_embedding.project_embedding.project": "reference_embedding",
    "embedding.project_embedding.project": "embedding",
    "encoder.encode_layers": "layers",
    "encoder.norm": "norm",
    "self_attention": "intra",
    "cross_attention": "inter",
    "_projection": "",
    "ffn.fc1": "widen",
    "ffn.fc2": "narrow",
    "norm1": "first_norm",
    "norm2": "second_norm",
    "projection.": "reconstruct.",
}


def own_name(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


def recorded() -> tuple[dict[str, np.ndarray], LevelNetwork]:
    """The fixture, and a network with its parameters."""
    data = fixture("fod")
    channels, width, heads, depth = data["config"].tolist()
    network = LevelNetwork(channels, width, heads=heads, depth=depth)
    parameters = {own_name(key[6:]): value for key, value in data.items() if key.startswith("param.")}
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    network.load_state_dict(
        {name: torch.from_numpy(value).reshape(shapes[name]) for name, value in parameters.items()}, strict=True
    )
    return data, network


def tokens_of(data: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    rows, columns = data["grid"].tolist()
    return torch.from_numpy(data["tokens"]), torch.from_numpy(data["reference"])[None], (rows, columns)


def small(**options) -> tuple[LevelNetwork, torch.Tensor, torch.Tensor, tuple[int, int]]:
    torch.manual_seed(0)
    network = LevelNetwork(12, 16, heads=2, depth=2, **options)
    return network, torch.randn(2, 20, 12), torch.randn(1, 20, 12), (4, 5)


def test_the_recorded_reconstruction_correlations_and_losses() -> None:
    data, network = recorded()
    tokens, reference, grid = tokens_of(data)
    found = network(tokens, reference, grid)
    np.testing.assert_allclose(found.tokens.detach(), data["reconstruction"], atol=1e-5)
    for branch in BRANCHES:
        told = found.correlations[branch]
        expected = data[f"{branch}_kl_ts"] + data[f"{branch}_kl_st"]
        np.testing.assert_allclose(torch.stack(told.div_of_target).detach(), expected, atol=2e-5)
        np.testing.assert_allclose(torch.stack(told.entropy).detach(), data[f"{branch}_entropy"], atol=1e-5)
        assert all(map(torch.equal, told.div_of_target, told.div_of_correlation))
    first, second = phase_losses(found, tokens, *data["lambdas"].tolist())
    np.testing.assert_allclose(reconstruction_loss(tokens, found.tokens).detach(), data["loss_rec"], atol=1e-5)
    np.testing.assert_allclose(
        [float(first.detach()), float(second.detach())], [data["loss1"], data["loss2"]], atol=1e-5
    )


def test_the_recorded_gradients_in_one_pass() -> None:
    data, network = recorded()
    tokens, reference, grid = tokens_of(data)
    two_phase_loss(network(tokens, reference, grid), tokens, *data["lambdas"].tolist()).backward()
    names = {own_name(name): name for name in data["grad_names"].tolist()}
    for name, parameter in network.named_parameters():
        expected = data[f"grad_total.{names[name]}"].reshape(parameter.shape)
        found = parameter.grad.numpy()
        if name.endswith("key.bias"):  # a softmax does not see what is added to all its logits
            np.testing.assert_allclose(found, 0, atol=1e-6)
        else:
            np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), err_msg=name)


def test_the_recorded_sigmas_and_scores() -> None:
    data, network = recorded()
    tokens, reference, grid = tokens_of(data)
    with torch.no_grad():
        found = network(tokens, reference, grid, correlations=("inter",), entropy=False)
        layer = network.layers[0]
        x = network.embedding(tokens)
        x = x + position_code(grid, x.shape[2], x)
        np.testing.assert_allclose(
            layer.intra.sigmas(x, layer.intra.sigma), data["intra_sigma"][0], rtol=1e-4, atol=1e-6
        )
    np.testing.assert_allclose(errors(tokens, found.tokens), data["test_rec"], atol=1e-5)
    np.testing.assert_allclose(weights(found), data["test_weight"], atol=1e-5)
    scores = patch_scores(network, tokens, reference, grid)
    np.testing.assert_allclose(scores.unflatten(1, grid), data["test_score"], atol=1e-5)
    alone = torch.cat([patch_scores(network, one, reference, grid) for one in tokens.split(1)])
    assert torch.equal(scores, alone)


@pytest.mark.parametrize(
    ("channels", "millions"), [((72, 200), 16.21), ((512, 1024), 17.81)], ids=["EfficientNet-b6", "WRN50"]
)
def test_as_many_parameters_as_published(channels: tuple[int, int], millions: float) -> None:
    total = 0
    with torch.device("meta"):
        for level, width in zip(channels, (256, 512), strict=True):
            dropped = 3 * 2 * (width * width + width)  # projections that the authors evaluate and drop
            total += dropped + sum(parameter.numel() for parameter in LevelNetwork(level, width).parameters())
    assert round(total / 1e6, 2) == millions


@pytest.mark.parametrize("branches", [(), ("intra",), ("inter",), BRANCHES])
@pytest.mark.parametrize("residual", [False, True])
def test_branches_can_be_switched_off(branches: tuple, residual: bool) -> None:
    network, tokens, reference, grid = small(branches=branches, residual=residual)
    layer = network.layers[0]
    assert [name for name in ("intra", "inter", "plain") if getattr(layer, name) is not None] == [*branches] or (
        branches == () and layer.plain is not None and layer.plain.sigma is None
    )
    assert (network.reference_embedding is None) == ("inter" not in branches)
    found = network(tokens, reference if "inter" in branches else None, grid)
    assert tuple(found.correlations) == branches
    for loss in (two_phase_loss, direct_loss):
        network.zero_grad()
        value = loss(network(tokens, reference, grid), tokens, 0.5, 0.5)
        value.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
    # The block: with every parameter of attention at zero but the values' biases, A is these biases.
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.split(".")[0] in ("intra", "inter", "plain"):
                parameter.zero_()
        x, value = torch.randn(1, 20, 16), torch.randn(16)
        parts = [getattr(layer, name) for name in ("intra", "inter", "plain") if getattr(layer, name) is not None]
        parts[0].value.bias.copy_(value)
        keeps = x if residual or len(branches) < 2 else 0
        seen = []
        layer.first_norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        layer(x, x, grid, {}, False)
        torch.testing.assert_close(seen[0], (keeps + value).expand_as(x))


def test_direct_loss_stops_no_gradient() -> None:
    network, tokens, reference, grid = small()
    found = network(tokens, reference, grid)
    values = {branch: torch.stack(told.div_of_target).mean() for branch, told in found.correlations.items()}
    entropies = {branch: torch.stack(told.entropy).mean() for branch, told in found.correlations.items()}
    expected = reconstruction_loss(tokens, found.tokens) + 0.3 * (values["intra"] - values["inter"])
    expected = expected - 0.2 * (entropies["intra"] - entropies["inter"])
    torch.testing.assert_close(direct_loss(found, tokens, 0.3, 0.2), expected)
    # Along the sum of both gradients: a small step changes the loss by what the gradient says.
    network = network.double()
    tokens, reference = tokens.double(), reference.double()
    loss = direct_loss(network(tokens, reference, grid), tokens, 0.3, 0.2)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    slope, step = sum(float(g.square().sum()) for g in gradients), 1e-6
    values_at = []
    for way in (step, -2 * step):
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter += way * gradient
            values_at.append(float(direct_loss(network(tokens, reference, grid), tokens, 0.3, 0.2)))
    assert (values_at[0] - values_at[1]) / (2 * step) == pytest.approx(slope, rel=1e-5)


def test_criteria_and_weights() -> None:
    network, tokens, reference, grid = small()
    options = {"network": network, "tokens": tokens, "reference": reference, "grid": grid}
    rec, div = (patch_scores(**options, criterion=criterion) for criterion in ("rec", "div"))
    torch.testing.assert_close(patch_scores(**options), rec * div)
    assert (div.amin(dim=1) == 0).all()
    with torch.no_grad():
        found = network(tokens, reference, grid)
    inter, intra = (found.correlations[branch].divergence() for branch in ("inter", "intra"))
    for weighing, away in (("inter", inter), ("intra", -intra), ("both", inter - intra)):
        a = torch.softmax(-away.double(), dim=1)
        scores = patch_scores(**options, criterion="div", weighing=weighing)
        torch.testing.assert_close(scores.double(), a.amax(dim=1, keepdim=True) - a, atol=1e-6, rtol=1e-5)
    printed = patch_scores(**options, printed=True)
    distance = (tokens - found.tokens).norm(dim=2) + 1 - torch.cosine_similarity(tokens, found.tokens, dim=2)
    torch.testing.assert_close(printed, distance * (1 - torch.softmax(-inter, dim=1)))
    without, *_ = small(branches=("intra",))
    with pytest.raises(ValueError, match="has no inter branch"):
        patch_scores(without, tokens, None, grid)
    assert patch_scores(without, tokens, None, grid, criterion="rec").shape == (2, 20)


def test_refused_shapes() -> None:
    network, tokens, reference, grid = small()
    with pytest.raises(ValueError, match="do not fill a grid of 4 x 4"):
        network(tokens, reference, (4, 4))
    with pytest.raises(ValueError, match="needs a reference"):
        network(tokens, None, grid)
    with pytest.raises(ValueError, match="multiple of 4 and of the 8 heads"):
        LevelNetwork(12, 20)
