"""Draws the README's picture: the assets of a lane, and which of them a changed setting rebuilds.

ad-assets materialize demo --category brick
python docs/draw_overview.py [BENCHMARK_FILE]
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, Rectangle
from PIL import Image

from ad_assets import results
from ad_assets.backbones.backbone import load_backbone
from ad_assets.config.load import load_config
from ad_assets.config.sections import all_settings
from ad_assets.graph.rebuilds import rebuilt_by

DATASET, DETECTOR, CATEGORY = "demo", "patchcore_10", "brick"
ASSETS = ("image_index", "features", "memory_bank", "score_maps", "metrics", "report")
SETTINGS = {  # as people write it -> section, method and key
    "taps: [blocks.1]": ("extractors.<name>", "", "taps"),
    "coreset_ratio: 0.01": ("datasets.<name>.detectors.<name>", "patchcore", "coreset_ratio"),
    "sigma: 2": ("datasets.<name>.detectors.<name>", "", "sigma"),
    "report: {hits: 9}": ("report", "", "hits"),
}
FOUND, REBUILT, INK = "#dfe5ec", "#e8833a", "#1f2a37"


def main(config: str | None = None) -> None:
    """Draw the picture beside this script."""
    index = results.image_index(DATASET, config).query("category == @CATEGORY")
    root = Path(load_config(config).datasets[DATASET].reader.root)
    test = index.query("split == 'test'").set_index("image_id")
    maps = {
        name: found
        for ids, block in results.score_maps(DATASET, DETECTOR, CATEGORY, config)
        for name, found in zip(ids, block, strict=True)
    }
    scores = {name: float(found.max()) for name, found in maps.items()}
    nominal, anomalous = ([scores[name] for name in test.index[test.label == label]] for label in (0, 1))
    shown = max(test.index[test.label == 1], key=scores.__getitem__)
    photograph = np.asarray(Image.open(root / test.path[shown]).convert("RGB"))
    good = np.asarray(Image.open(root / index.query("split == 'train'").path.iloc[0]).convert("RGB"))

    benchmark = load_config(config)
    extractor = benchmark.extractors[benchmark.datasets[DATASET].detectors[DETECTOR].extractor]
    features = load_backbone(extractor, benchmark.compute).probe(good)[0][0].numpy()

    figure = plt.figure(figsize=(12, 5.2), dpi=110, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 12), ylim=(0, 5.2))
    axes.axis("off")
    left, wide = 2.35, 1.6
    for place, name in enumerate(ASSETS):
        x = left + wide * place
        picture = figure.add_axes(((x + 0.1) / 12, 3.25 / 5.2, 1.3 / 12, 1.3 / 5.2))
        draw(picture, name, good, features, photograph, maps[shown], nominal, anomalous)
        picture.set(xticks=[], yticks=[])
        axes.text(x + 0.75, 4.72, name, ha="center", fontsize=11, color=INK, family="monospace")
        if place:
            arrow = FancyArrowPatch((x - 0.2, 3.9), (x + 0.1, 3.9), arrowstyle="-|>", mutation_scale=14, color=INK)
            axes.add_patch(arrow)
    axes.text(0.15, 3.9, "one lane,\none category", va="center", fontsize=11, color=INK)
    for line, (text, (section, kind, key)) in enumerate(SETTINGS.items()):
        y = 2.3 - 0.62 * line
        first = rebuilds_first(section, kind, key)
        axes.text(0.15, y + 0.19, text, va="center", fontsize=10.5, color=INK, family="monospace")
        for place in range(len(ASSETS)):
            anew = place >= first
            colour = REBUILT if anew else FOUND
            axes.add_patch(Rectangle((left + wide * place + 0.1, y), 1.3, 0.38, color=colour, lw=0))
            word, ink = ("rebuilt", "white") if anew else ("found", "#5b6776")
            axes.text(left + wide * place + 0.75, y + 0.18, word, ha="center", va="center", fontsize=10, color=ink)
    axes.text(0.15, 2.95, "change …", fontsize=11, color=INK)
    figure.savefig(Path(__file__).with_name("overview.png"))


def rebuilds_first(section: str, kind: str, key: str) -> int:
    """The place of the first asset that a changed setting rebuilds."""
    setting = next(each for each in all_settings() if (each.section, each.kind, each.name) == (section, kind, key))
    return min(ASSETS.index(name) for name in rebuilt_by(setting) or () if name in ASSETS)


def farthest(points: np.ndarray, count: int) -> list[int]:
    """Places of points of which each is the farthest from those before it: a coreset, in small."""
    chosen, gaps = [0], np.full(len(points), np.inf)
    while len(chosen) < count:
        gaps = np.minimum(gaps, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(gaps.argmax()))
    return chosen


def draw(
    picture: plt.Axes,
    name: str,
    good: np.ndarray,
    features: np.ndarray,
    photograph: np.ndarray,
    score_map: np.ndarray,
    nominal: list[float],
    anomalous: list[float],
) -> None:
    """What an asset holds, in small."""
    if name == "image_index":
        picture.imshow(good)
    elif name == "features":
        lively = np.argsort(-features.std(axis=(1, 2)))[:4]
        first, second, third, fourth = (features[each] / features[each].max() for each in lively)
        picture.imshow(np.block([[first, second], [third, fourth]]), cmap="viridis")
    elif name == "memory_bank":
        patches = features.reshape(len(features), -1).T
        centred = patches - patches.mean(axis=0)
        points = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T  # principal components
        kept = farthest(patches, len(patches) // 30)
        picture.scatter(*points.T, s=3, color="#9fb3c8")
        picture.scatter(*points[kept].T, s=14, color="#1f6feb")
    elif name == "score_maps":
        picture.imshow(score_map, cmap="inferno")
    elif name == "metrics":
        bins = np.linspace(min(nominal), max(anomalous), 18)
        picture.hist(nominal, bins, color="#9fb3c8")
        picture.hist(anomalous, bins, color=REBUILT, alpha=0.8)
    else:
        picture.imshow(photograph)
        high = np.quantile(score_map, 0.97)
        side = len(photograph)
        grown = np.asarray(Image.fromarray(score_map.astype(np.float32)).resize((side, side)))
        picture.contour(grown, levels=[high], colors=["#40e0ff"], linewidths=1.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
