"""Checkpoints of a training, in the folder of the artifact that it will become."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from ad_assets.graph.stage import Work
from ad_assets.methods.runtime import Checkpoints
from ad_assets.store.layout import CHECKPOINT
from ad_assets.store.store import Artifact, ArtifactStore, CorruptArtifactError

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)


class StoreCheckpoints(Checkpoints):
    """One file a training, renamed into place; the artifact's address says what it is a checkpoint of.

    Args:
        store: where it lies.
        artifact: what the training will become.
        every: steps between two checkpoints.
    """

    def __init__(self, store: ArtifactStore, artifact: Artifact, every: int) -> None:
        super().__init__(every)
        self._store, self._artifact, self._path = store, artifact, artifact.at(CHECKPOINT)

    @classmethod
    def of(cls, work: Work, artifact: Artifact) -> StoreCheckpoints:
        """Those of what is being built; a forced build takes none up."""
        checkpoints = cls(work.store, artifact, work.compute.checkpoint_steps)
        if work.force:
            checkpoints.clear()
        return checkpoints

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint, or None; a damaged one is as if absent."""
        try:
            # In one go: another process that trains the same may replace or clear it meanwhile.
            tensors, notes = self._store.read_noted_tensors(self._path)
            return tensors, json.loads(notes["info"])
        except FileNotFoundError:
            return None
        except (CorruptArtifactError, KeyError, ValueError) as error:
            _LOG.warning("%s; the training begins anew", error)
            return None

    def save(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Replace the checkpoint; its values lie in the header of the tensors, so that both are of one moment."""
        self._store.write_tensors(self._path, tensors, {"info": json.dumps(info, allow_nan=False)})

    def keep(self, epoch: int, weights: dict[str, Tensor]) -> None:
        """Keep the weights after an epoch beside what the training will come to."""
        self._store.write_tensors(epoch_path(self._artifact, epoch), weights)

    def clear(self) -> None:
        """Delete the checkpoint."""
        self._store.delete([self._path])


def epoch_path(artifact: Artifact, epoch: int) -> str:
    """Where the weights after an epoch lie."""
    return artifact.at(f"epochs/{epoch:06d}.safetensors")


def kept_epochs(artifact: Artifact) -> list[int]:
    """The epochs whose weights were kept, ascending."""
    files = artifact.store.files(artifact.at("epochs"))
    return sorted(
        int(file.path.rpartition("/")[2].partition(".")[0]) for file in files if not file.path.endswith(".tmp")
    )
