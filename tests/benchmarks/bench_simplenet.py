"""SimpleNet on stored features, against the same work with the authors' data path.

Run: ``python -m tests.benchmarks.bench_simplenet``. WideResNet50 shapes at 288 pixels: 512 x 36 x 36 and
1,024 x 18 x 18, 1,296 patches of 1,536 values an image. Weights are random: only time is looked at.

Step: 8 images. Ours has the embeddings in memory, as training has from the second epoch on. The reference decodes
images, runs the whole backbone, unfolds, resizes and pools neighbourhoods, draws noise, and differentiates the head by
torch. Evaluation: 100 test images, ours from stored taps; the reference runs the backbone, resizes all features to 288
pixels and copies them (its recipe throws them away), and smooths each map; its normalisation applies every image's to
the whole stack. AUPRO has a benchmark of its own and is in neither.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable

import numpy as np
import timm
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as f

from ad_assets.kernels.discriminator import HeadWeights
from ad_assets.methods import Batch, Runtime
from ad_assets.methods.simplenet import SimpleNet
from ad_assets.methods.simplenet_training import head_of
from ad_assets.methods.training.base import TrainedNetwork
from tests.benchmarks.measure import interleaved, report
from tests.support.tap_features import tap_features

SIDE, CROP, BATCH, TEST = 329, 288, 8, 100
SHAPES = ((512, 36), (1024, 18))
DIMENSIONS = 1536
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIGMA = 0.015


def files(count: int) -> list[bytes]:
    """PNG files of 700 pixels, as a camera's."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 255, (70, 70, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((700, 700), Image.Resampling.BICUBIC).save(buffer, "png")
        found.append(buffer.getvalue())
    return found


def decode(file: bytes) -> Tensor:
    """(3, 288, 288), as the recipe loads an image."""
    image = Image.open(io.BytesIO(file)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    edge = (SIDE - CROP) // 2
    pixels = np.asarray(image.crop((edge, edge, edge + CROP, edge + CROP)), np.float32) / 255
    return torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(DEVIATION)).permute(2, 0, 1)


class Recipe:
    """The authors' path: backbone in the loop, neighbourhoods unfolded, the head differentiated by torch."""

    def __init__(self, head: HeadWeights, optimizers: list[torch.optim.Optimizer]) -> None:
        # Early exit is commented out there: the last stage and the classifier run for nothing.
        self._backbone = timm.create_model("wide_resnet50_2", pretrained=False).eval()
        self._kept: dict[str, Tensor] = {}
        for name in ("layer2", "layer3"):
            getattr(self._backbone, name).register_forward_hook(
                lambda _module, _inputs, out, name=name: self._kept.__setitem__(name, out)
            )
        self._head, self._optimizers = head, optimizers

    def embed(self, pixels: Tensor) -> Tensor:
        """(rows, 1536)."""
        with torch.no_grad():
            self._backbone(pixels)
            parts = []
            for name in ("layer2", "layer3"):
                tap = self._kept[name]
                patches = f.unfold(tap, 3, padding=1).unflatten(1, (tap.shape[1], 9))
                patches = patches.unflatten(3, tap.shape[2:])  # B, C, 9, h, w
                if parts:
                    flat = f.interpolate(patches.flatten(0, 2)[:, None], (36, 36), mode="bilinear", align_corners=False)
                    patches = flat[:, 0].unflatten(0, patches.shape[:3])
                rows = patches.flatten(3).permute(0, 3, 1, 2).flatten(0, 1).flatten(1)
                parts.append(f.adaptive_avg_pool1d(rows[:, None], DIMENSIONS)[:, 0])
            joined = torch.stack(parts, dim=1).flatten(1)
            return f.adaptive_avg_pool1d(joined[:, None], DIMENSIONS)[:, 0]

    def discriminate(self, q: Tensor, *, training: bool) -> Tensor:
        """(rows,)."""
        scale, shift, mean, variance = self._head.norm
        z = f.batch_norm(f.linear(q, *self._head.first), mean, variance, scale, shift, training=training)
        return f.linear(f.leaky_relu(z, 0.2), self._head.last)[:, 0]

    def step(self, batch: list[bytes]) -> None:
        """One step of training."""
        rows = self.embed(torch.stack([decode(file) for file in batch]))
        (weight, bias) = self._head.adaptor[0]
        q = f.linear(rows, weight, bias)
        noise = torch.normal(0, SIGMA, q.shape)
        true, noisy = self.discriminate(torch.cat([q, q + noise]), training=True).chunk(2)
        loss = (0.5 - true).clamp(min=0).mean() + (0.5 + noisy).clamp(min=0).mean()
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()

    def evaluate(self, batch: list[bytes], backbone: bool, rows: Tensor) -> None:
        """Maps and features of test images; `rows` stand in where the backbone is left aside."""
        with torch.no_grad():
            if backbone:
                rows = self.embed(torch.stack([decode(file) for file in batch]))
            weight, bias = self._head.adaptor[0]
            q = f.linear(rows, weight, bias)
            scores = -self.discriminate(q, training=False).unflatten(0, (len(batch), 36, 36))
            maps = f.interpolate(scores[:, None], (CROP, CROP), mode="bilinear", align_corners=False)[:, 0].numpy()
            [gaussian_filter(one, 4) for one in maps]
            for one in q.unflatten(0, (len(batch), 36, 36)).permute(0, 3, 1, 2):
                f.interpolate(one[None], (CROP, CROP), mode="bilinear", align_corners=False).numpy().copy()


def normalise_once(maps: np.ndarray) -> np.ndarray:
    """One of the recipe's N terms, which it takes of the whole stack."""
    low, high = maps[0].min(), maps[0].max()
    return maps + (maps - low) / max(high - low, 0.01)


def with_gradients(method: SimpleNet) -> tuple[HeadWeights, list[torch.optim.Optimizer]]:
    weights = method.initial_weights(DIMENSIONS)
    for name, tensor in weights.items():
        tensor.requires_grad_(method.is_parameter(name))
    head = head_of(weights)
    return head, method.optimizers(head)


def main() -> None:
    """Both comparisons."""
    options = argparse.ArgumentParser()
    options.add_argument("--repeats", type=int, default=3)
    repeats = options.parse_args().repeats
    method = SimpleNet()
    taps = [torch.rand(BATCH, channels, side, side) for channels, side in SHAPES]
    features = tap_features(taps)
    training = method.training(features, None, Runtime(memory_gb=8))
    images = list(range(BATCH))
    training.step(images, 0)
    recipe, batch = Recipe(*with_gradients(method)), files(BATCH)
    ours = timed_steps(lambda epoch: training.step(images, epoch))
    report(
        "training step, 8 images", interleaved(ours, lambda: recipe.step(batch), repeats), "same step, other weights"
    )

    state = method.prepare(TrainedNetwork(training.weights, []), features, Runtime())
    few = [tap[:2] for tap in taps]
    rows = torch.rand(2 * 36 * 36, DIMENSIONS)
    stack = np.random.default_rng(0).random((TEST, CROP, CROP), np.float32)
    for name, backbone in (("with its backbone", True), ("backbone left aside", False)):

        def reference(backbone: bool = backbone) -> None:
            recipe.evaluate(batch[:2], backbone, rows)
            # Two images' share of the normalisation: N terms for N images.
            normalise_once(stack)
            normalise_once(stack)

        score: Callable[[], object] = lambda: method.score(state, Batch(few, (CROP, CROP)), Runtime())  # noqa: E731
        timing = interleaved(score, reference, repeats)
        each = timing.ours / 2
        report(f"evaluation, {name}, 2 of 100 images", timing, f"{TEST * each:.1f} s for 100 of ours")


def timed_steps(step: Callable[[int], object]) -> Callable[[], object]:
    """Steps of ever later epochs, so that noise is drawn anew."""
    epochs = iter(range(1, 1_000_000))
    return lambda: step(next(epochs))


if __name__ == "__main__":
    main()
