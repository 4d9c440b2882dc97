"""What images found in a state, kept beside their scores, so that a state that grew is searched in what came alone.

For each test image of the methods whose neighbours are no asset of their own, in shards as of the maps, and for each
nominal image that was scored left-out. Bytes an image: of HETMM 8 a place of each layer; of SPADE 12 a place and
neighbour; of RAD 4 a patch of each layer; of these two 8 or 12 a retrieved image; of a memory bank, where left-out
images alone are kept here, 8 a patch and neighbour.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

from ad_assets.graph.stage import Stage, Work
from ad_assets.graph.stages.earlier import earlier_of
from ad_assets.graph.stages.fitted_state import read_state
from ad_assets.methods import Features, Matches, Method, Runtime, State
from ad_assets.methods.data import by_image, together
from ad_assets.methods.growth import Before, Growth, Matched, match_grown
from ad_assets.store.store import Artifact

if TYPE_CHECKING:
    from torch import Tensor

KEPT, LEFT_OUT = "kept.json", "left_out.safetensors"


class MatchMemory:
    """Takes what images find in a state, and knows what they found in an earlier one.

    Args:
        before: what they found then; None: nothing is known.
    """

    def __init__(self, before: Before | None) -> None:
        self._before, self._group = before, frozenset[str]()
        self._growths: list[Growth | None] = []  # of the state, once asked for
        self.tested: dict[str, Matches] = {}
        self.left_out: dict[str, tuple[frozenset[str], Matches]] = {}

    def without(self, method: Method[Any], group: Collection[str], train: Features, runtime: Runtime) -> MatchMemory:
        """The same where a group of images is left out together; what is found is taken here too."""
        other = copy(self)
        other._group, other._growths = frozenset(group), []
        if self._before:
            gone = other._group & set(train.image_ids) & set(self._earlier_images())
            known = {image: own for image, own in self._before.left_out.items() if own[0] == gone}
            state = self._before.state
            other._before = None
            if gone and known:
                other._before = Before(method.without(state, gone, train, runtime), (), self._before.load, known)
        return other

    def matched(
        self, method: Method[Any], state: State, images: Features, runtime: Runtime, *, left_out: bool
    ) -> Matched:
        """Match images as `Method.match` does."""
        nominal = left_out or bool(self._group)
        match = partial(method.match, state, runtime=runtime, left_out=left_out)
        growth = self._growth(method, state, runtime)
        if self._before is None or growth is None:
            found = match(images)
        else:
            own = {image: kept for image, (group, kept) in self._before.left_out.items() if self._group or not group}
            known = own if nominal else self._before.tested
            load = (lambda ids: together(ids, own)) if nominal else self._before.load
            found = match_grown(growth, images, known, load, match, left_out=left_out)
        for ids, matches in found:
            for image_id, each in by_image(ids, matches).items() if matches else ():
                kept = {name: part.cpu().clone() for name, part in each.items()}
                if nominal:
                    self.left_out[image_id] = self._group, kept
                else:
                    self.tested[image_id] = kept
            yield ids, matches

    def _growth(self, method: Method[Any], state: State, runtime: Runtime) -> Growth | None:
        if not self._growths:
            self._growths = [method.growth(state, self._before.state, runtime) if self._before else None]
        return self._growths[0]

    def _earlier_images(self) -> Sequence[str]:
        images: Sequence[str] = self._before.state.info()["image_ids"] if self._before else ()
        return images


def memory_of(work: Work, state: Stage, features: Stage, method: Method[Any], region: str) -> MatchMemory | None:
    """The memory of a lane's scores, with what the asset partition held before; None for methods that keep nothing.

    Args:
        work: of the score maps.
        state: of the lane.
        features: of the lane.
        method: as it scores.
        region: content of the region of interest.
    """
    if type(method).growth is Method.growth:
        return None
    earlier = earlier_of(work, state)
    if earlier is None or not work.store.exists(earlier.artifact.at(KEPT)):
        return MatchMemory(None)
    path = earlier.artifact.at(KEPT)
    with work.store.valid_content(path):
        kept = work.store.read_json(path)
        if kept["made"] != _made(state, features, region):
            return MatchMemory(None)
        shards, groups = kept["shards"], kept["left_out"]
    place = {image: (number, row) for number, ids in shards.items() for row, image in enumerate(ids)}

    def load(ids: Sequence[str]) -> dict[str, Tensor]:
        import torch

        wanted = [place[image] for image in ids]
        read = {
            n: work.store.read_tensors(_path(earlier.artifact, int(n))) for n in dict.fromkeys(n for n, _ in wanted)
        }
        return {name: torch.stack([read[n][name][row] for n, row in wanted]) for name in next(iter(read.values()))}

    tensors = work.store.read_tensors(earlier.artifact.at(LEFT_OUT)) if groups else {}
    own: dict[str, dict[str, Tensor]] = {image: {} for image in groups}
    for name, tensor in tensors.items():
        what, _, image = name.partition(" ")
        own[image][what] = tensor
    left_out = {image: (frozenset(group), own[image]) for image, group in groups.items()}
    return MatchMemory(Before(read_state(earlier.state, method), place.keys(), load, left_out))


def write_shard(work: Work, number: int, image_ids: Sequence[str], memory: MatchMemory) -> None:
    """Store what the test images of a shard found, if anything is kept of it, and forget it."""
    found = {image: memory.tested.pop(image) for image in image_ids if image in memory.tested}
    if found:
        work.store.write_tensors(_path(work.artifact, number), dict(together(image_ids, found)))


def write_kept(
    work: Work, state: Stage, features: Stage, region: str, shards: Sequence[Sequence[str]], memory: MatchMemory
) -> None:
    """Store what nominal images found, and what all of it was found in."""
    stored = work.artifact.present_files()
    names = {f"{n}": list(ids) for n, ids in enumerate(shards) if _path(work.artifact, n) in stored}
    groups = {image: sorted(group) for image, (group, _) in memory.left_out.items()}
    tensors = {f"{name} {image}": own for image, (_, found) in memory.left_out.items() for name, own in found.items()}
    if tensors:
        work.store.write_tensors(work.artifact.at(LEFT_OUT), tensors)
    made = _made(state, features, region)
    work.store.write_json(work.artifact.at(KEPT), {"made": made, "shards": names, "left_out": groups})


def _made(state: Stage, features: Stage, region: str) -> list[str]:
    """What matches follow from beside the images: other settings of the fit, features or region make others."""
    return [state.code_version, features.code_version, region]


def _path(artifact: Artifact, number: int) -> str:
    return artifact.at(f"matches-{number:05d}.safetensors")
