"""Fits and tests one detector of anomalib: a script that the interpreter of its own environment runs.

Run: ``python anomalib_side.py job.json``. It calls anomalib's public interface and writes raw scores, PatchCore's bank
and the features of a given input (NPZ), and the releases that it ran with (JSON). No threshold is chosen and nothing is
normalised: post-processing and pictures are off, and there is no validation set. Its own metrics are computed for what
they cost; its AUROC is not made for scores beyond 0 and 1, so they are not read.
"""

import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np


def main(job):
    """Fit, test, and write the files that the job names."""
    import torch
    from anomalib import models
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.metrics import AUPRO, AUROC, Evaluator
    from anomalib.pre_processing import PreProcessor
    from lightning.pytorch import Callback, seed_everything
    from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

    class Keep(Callback):
        """Keeps the raw scores of every batch."""

        def __init__(self):
            self.paths, self.image, self.maps = [], [], []

        def on_test_batch_end(self, trainer, pl_module, outputs, batch, *_, **__):
            del trainer, pl_module, outputs
            self.paths += [str(Path(*Path(path).parts[-2:])) for path in batch.image_path]
            self.image.append(batch.pred_score.flatten().numpy())
            self.maps.append(batch.anomaly_map.squeeze(1).numpy())

    seed_everything(job["seed"])
    crop = [CenterCrop(job["crop"])] if job["crop"] else []
    transform = Compose([Resize(job["resize"], antialias=True), *crop, Normalize(mean=job["mean"], std=job["std"])])
    measured = [("pred_score", "gt_label", AUROC), ("anomaly_map", "gt_mask", AUROC), ("anomaly_map", "gt_mask", AUPRO)]
    evaluator = Evaluator(test_metrics=[kind(fields=[of, by], prefix=f"{of}_") for of, by, kind in measured])
    model = getattr(models, job["model"])(
        backbone=job["backbone"],
        layers=job["layers"],
        pre_trained=False,
        pre_processor=PreProcessor(transform=transform),
        post_processor=False,
        evaluator=evaluator,
        visualizer=False,
        **job["arguments"],
    )
    load_weights(model.model.feature_extractor.feature_extractor, job["weights"])
    data = Folder(
        name="images",
        root=Path(job["images"]),
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/anomalous",
        mask_dir="ground_truth/anomalous",
        num_workers=job["workers"],
        val_split_mode="none",
    )
    kept = Keep()
    quiet = {"logger": False, "enable_progress_bar": False, "limit_val_batches": 0}
    engine = Engine(callbacks=[kept], default_root_dir=job["folder"], accelerator="cpu", **quiet)
    engine.fit(model=model, datamodule=data)
    engine.test(model=model, datamodule=data)
    patchcore = job["model"] == "Patchcore"
    extra = {"bank": model.model.memory_bank.numpy()} if patchcore else {"channels": model.model.idx.numpy()}
    with torch.no_grad():
        taps = model.model.feature_extractor(torch.from_numpy(np.load(job["probe"])))
    extra |= {f"tap{number}": tap.numpy() for number, tap in enumerate(taps.values())}
    image, maps = np.concatenate(kept.image), np.concatenate(kept.maps)
    np.savez(job["scores"], paths=np.array(kept.paths), image=image, maps=maps, **extra)
    releases = {name: metadata.version(name) for name in ("anomalib", "torch")}
    Path(job["releases"]).write_text(json.dumps(releases), encoding="utf-8")


def load_weights(network, path):
    """The weights that the other side has, by name; what is behind the last layer is not there."""
    from safetensors.torch import load_file

    own, given = network.state_dict(), load_file(path)
    if missing := [name for name in own if name not in given]:
        raise SystemExit(f"{path} lacks {len(missing)} of the network's weights, such as {missing[0]}")
    network.load_state_dict({name: given[name] for name in own})


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
