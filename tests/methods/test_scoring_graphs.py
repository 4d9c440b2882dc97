"""The scoring graph of every method against its `score`, by the operations of torch that an exporter writes down."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from ad_assets.methods import METHODS, Batch, Runtime
from ad_assets.methods.data import Frame
from ad_assets.methods.scoring_graph import nearest_rows
from tests.methods.test_region_of_interest import REGION
from tests.methods.test_registry import CASES, MAP_SIZE, NOMINAL, TEST
from tests.support.tap_features import tap_features

RUNTIME = Runtime()
TOLERANCE = 1e-5  # of the largest score of the map
SHAPES = tuple(tuple(tap.shape[1:]) for tap in TEST)
BANK = {"pre_dimensions": 16, "dimensions": 16, "coreset_ratio": 0.5, "projection": 8}
FOD = {"widths": (8, 16), "heads": 2, "depth": 1, "epochs": 1}
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("patchcore", {"pooling": "concat", "coreset_ratio": 0.5, "neighbours": 3, "squared": True, "patch_size": 1}),
    ("patchcore", {**BANK, "image_score": "reweighted", "sigma": 0.0, "stride": 2}),
    ("patchcluster", {**BANK, "neighbours": 3, "image_score": "max"}),
    ("patchcluster", {**BANK, "coreset_ratio": 0.1, "neighbours": 3, "b": 50, "layers": (2,)}),
    ("padim", {"sigma": 0.0}),
    ("fod", {**FOD, "reference": "nearest", "unit": "features", "criterion": "div"}),
    ("fod", {**FOD, "reference": "codebook", "codes": 6, "passes": 1, "weighing": "both", "sigma": 2.0}),
    ("fod", {**FOD, "reference": "prototype", "prototypes": 2, "passes": 1, "residual": True, "pool": False}),
    ("fod", {**FOD, "inter": False, "printed_weight": True}),
    ("fod", {**FOD, "intra": False, "inter": False, "criterion": "rec"}),
    ("simplenet", {"hidden_units": 8, "epochs": 1, "adaptor": "mlp", "pre_dimensions": 16, "dimensions": 16}),
    ("simplenet", {"hidden_units": 8, "epochs": 1, "adaptor": "none", "pooling": "concat", "roi_fit": True}),
    ("spade", {"neighbours": 50, "pixel_neighbours": 3, "pixel_layers": 1, "squared": True, "sigma": 1.0}),
    ("spade", {"neighbours": 2, "roi_fit": True}),
    ("rad", {"neighbours": 2, "radius": 3, "roi_fit": True, "sigma": 0.0}),
    ("rad", {"neighbours": 50, "radius": None, "roi_fit": True, "layers": (1,)}),
    ("hetmm", {"windows": (4, 3), "windows_backward": (3, 5), "alpha": (0.3, 1.0), "weights": (1.0, 2.0)}),
    ("hetmm", {"windows": (3, 3), "roi_fit": True, "map_sigma": 1.0, "map_blur_size": 5, "border": "zero"}),
    ("hetmm", {"windows": (19, 9), "sheets": 2, "image_score": "mean_of_max_pool", "image_pool": 5}),
    ("hetmm", {"windows": (3, 1), "matching": "patch", "align_corners": False}),
]
ALL = [*CASES, *OTHERS]


@pytest.mark.parametrize("region", [None, REGION], ids=["whole", "region"])
@pytest.mark.parametrize(("name", "options"), ALL, ids=[f"{name}-{n}" for n, (name, _) in enumerate(ALL)])
def test_a_graph_scores_as_the_method_does(name: str, options: dict[str, Any], region: torch.Tensor | None) -> None:
    method = METHODS[name](**options)
    layers = [number - 1 for number in method.layers or (1, 2)]
    taps = [TEST[layer] for layer in layers]
    features = replace(tap_features([NOMINAL[layer] for layer in layers]), region=region)
    state = method.prepare(method.fit(features, RUNTIME), features, RUNTIME)
    expected = method.score(state, Batch(taps, MAP_SIZE, region=region), RUNTIME)
    graph = method.graph(Frame(tuple(SHAPES[layer] for layer in layers), MAP_SIZE, region is not None)).eval()
    inputs = graph.state(state, region)
    assert {name: tensor.dtype for name, tensor in inputs.items()} == {n: i.dtype for n, i in graph.inputs.items()}
    for image in range(len(taps[0])):
        score_map, score = graph([tap[image, None] for tap in taps], inputs)
        largest = float(expected.maps[image].abs().max())
        torch.testing.assert_close(score_map, expected.maps[image], rtol=0, atol=TOLERANCE * largest)
        torch.testing.assert_close(score, expected.image_scores[image], rtol=0, atol=TOLERANCE * largest)


@pytest.mark.parametrize(
    ("name", "options", "fault"),
    [
        ("patchcore", {"search": "ivfpq"}, "ivfpq"),
        ("patchcluster", {"neighbours": "images"}, "follows the number of images"),
    ],
)
def test_what_has_no_graph_says_why(name: str, options: dict[str, Any], fault: str) -> None:
    assert fault in METHODS[name](**options).graph_fault


def test_rows_are_found_among_near_ties_and_few_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 6, generator=generator) + 100
    rows[7] = rows[3]
    queries = torch.cat([rows[:9], torch.randn(5, 6, generator=generator) + 100])
    distances, numbers = nearest_rows(queries, rows, 4)
    exact = torch.cdist(queries.double(), rows.double()).sort(dim=1).values[:, :4]
    torch.testing.assert_close(distances.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((queries[:, None] - rows[numbers]).norm(dim=2), distances)
    few, _ = nearest_rows(queries, rows[:2], 4)
    assert few[:, 2:].isinf().all()
    assert few[:, :2].isfinite().all()
