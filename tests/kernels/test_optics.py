"""OPTICS labels against scikit-learn's, point by point."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import OPTICS

from ad_assets.backbones.backbone import load_backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.datasets.decoding import Decoding
from ad_assets.kernels.optics import optics_labels
from ad_assets.kernels.parallel import threads as current_threads
from ad_assets.kernels.parallel import use_threads
from ad_assets.settings.compute import Compute
from tests.support.fixtures import fixture
from tests.support.places import MAGNETIC_TILES


def reference(distances: np.ndarray, min_samples: int) -> list[list[int]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # divisions of infinities
        return [OPTICS(min_samples=min_samples, metric="precomputed").fit(one).labels_.tolist() for one in distances]


def cosine_distances(vectors: torch.Tensor) -> torch.Tensor:
    """(P, N, C) to (P, N, N) float64."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=2)
    distances = (1 - unit @ unit.mT).clamp(min=0)
    distances.diagonal(dim1=1, dim2=2).zero_()
    return distances


def clustered(seed: int, sets: int, points: int, clusters: int, spread: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(sets, clusters, 8, generator=generator)
    member = torch.randint(clusters, (points,), generator=generator)
    noise = torch.randn(sets, points, 8, generator=generator)
    return centres[:, member] + spread * noise


@pytest.mark.parametrize(("points", "min_samples"), [(2, 2), (17, 2), (60, 2), (60, 4), (120, 4), (80, 20), (50, 50)])
@pytest.mark.parametrize("spread", [0.1, 0.6])
def test_scattered_clusters(points: int, min_samples: int, spread: float) -> None:
    vectors = clustered(points, 3, points, 5, spread)
    distances = cosine_distances(
        torch.cat([vectors, vectors.round(decimals=0) + 0.5, vectors[:, torch.arange(points) // 2]])
    )
    assert optics_labels(distances, min_samples).tolist() == reference(distances.numpy(), min_samples)


@settings(max_examples=150)
@given(
    points=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=2, max_size=40),
    scale=st.sampled_from([1e-16, 1e-3, 0.1, 1.0, 977.7]),
    data=st.data(),
)
def test_points_of_a_grid(points: list[tuple[int, int]], scale: float, data: st.DataObject) -> None:
    """Duplicates and ties everywhere; distances from below the rounding to above where it acts."""
    coordinates = torch.tensor(points, dtype=torch.float64)
    distances = (coordinates[:, None] - coordinates).square().sum(dim=2).sqrt()[None] * scale
    min_samples = data.draw(st.integers(2, len(points)))
    assert optics_labels(distances, min_samples).tolist() == reference(distances.numpy(), min_samples)


@settings(max_examples=100)
@given(
    steps=st.lists(st.sampled_from([0.0, 0.94, 0.95, 0.96, 1.0, 1.3, 3.0, 20.0]), min_size=3, max_size=60),
    min_samples=st.integers(2, 4),
)
def test_points_of_a_line(steps: list[float], min_samples: int) -> None:
    """Long descents and ascents with flat pieces: the limits of steep areas."""
    places = torch.tensor(steps, dtype=torch.float64).cumsum(dim=0)
    distances = (places[:, None] - places).abs()[None]
    min_samples = min(min_samples, len(steps))
    assert optics_labels(distances, min_samples).tolist() == reference(distances.numpy(), min_samples)


def test_labels_of_the_fixture() -> None:
    data = fixture("pts")
    vectors = torch.from_numpy(data["templates"]).flatten(2).permute(2, 0, 1).double()
    distances = (1 - vectors @ vectors.mT).clamp(min=0)
    distances.diagonal(dim1=1, dim2=2).zero_()
    labels = optics_labels(distances, int(data["min_samples"]))
    assert labels.T.reshape(data["labels"].shape).tolist() == data["labels"].tolist()


def test_float32_equal_to_its_float64_and_threads_do_not_matter() -> None:
    distances = cosine_distances(clustered(0, 23, 50, 4, 0.3)).float()
    expected = optics_labels(distances.double(), 5)
    assert expected.amax() > 1
    threads = current_threads()
    try:
        for count in (1, 3):
            use_threads(count)
            assert torch.equal(optics_labels(distances, 5), expected)
    finally:
        use_threads(threads)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distances": torch.zeros(5, 5)}, "must be .P, N, N."),
        ({"distances": torch.zeros(2, 5, 4)}, "must be .P, N, N."),
        ({"distances": torch.zeros(0, 5, 5)}, "not empty"),
        ({"distances": torch.zeros(2, 5, 5, dtype=torch.int64)}, "floating point"),
        (
            {"distances": torch.zeros(2, 5, 5).index_fill_(0, torch.tensor([1]), torch.nan)},
            r"at \(1, 0, 0\) there is nan",
        ),
        ({"distances": torch.full((1, 5, 5), torch.inf)}, "finite"),
        ({"distances": torch.full((1, 5, 5), -1e-9)}, "not negative"),
        ({"min_samples": 1}, "min_samples must be 2..5"),
        ({"min_samples": 6}, "min_samples must be 2..5"),
    ],
)
def test_refused_input(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optics_labels(**{"distances": torch.zeros(2, 5, 5), "min_samples": 2, **change})


@pytest.mark.real
@pytest.mark.skipif(not (MAGNETIC_TILES / "MT_Free").is_dir(), reason=f"no Magnetic Tile Defects in {MAGNETIC_TILES}")
def test_real_features() -> None:
    extractor = Extractor(backbone="tf_efficientnet_lite0", weights="bundled", taps=("/4", "/8"), resize=(256, 256))
    backbone = load_backbone(extractor, Compute(device="cpu"))
    files = sorted((MAGNETIC_TILES / "MT_Free").rglob("*.jpg"))[:120]
    assert len(files) == 120
    images = [backbone.preprocess(Decoding().rgb(file.read_bytes(), str(file))) for file in files]
    batches = [backbone.extract(torch.stack(images[first : first + 16])) for first in range(0, 120, 16)]
    generator = torch.Generator().manual_seed(0)
    counts = []
    for level, min_samples in ((0, 2), (1, 6)):  # 60 and 20 sheets
        vectors = torch.cat([taps[level] for taps in batches]).flatten(2).permute(2, 0, 1)
        pixels = torch.randperm(len(vectors), generator=generator)[:250]
        distances = cosine_distances(vectors[pixels])
        labels = optics_labels(distances, min_samples)
        assert labels.tolist() == reference(distances.numpy(), min_samples)
        counts.append(float((labels.amax(dim=1) + 1).double().mean()))
    assert min(counts) > 1
