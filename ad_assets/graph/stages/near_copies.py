"""Groups of near-copies among training images, kept in the store: one search serves all lanes of an extractor.

They follow from the features alone, so whoever asks for them first works them out, under an address that says of which
features, and whoever comes later reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ad_assets.config.benchmark import fingerprint
from ad_assets.graph.stage import Stage, Work
from ad_assets.graph.stages.features import train_part
from ad_assets.methods import Features, Runtime
from ad_assets.methods.near_copies import images_compared, near_copy_groups
from ad_assets.methods.nominal_scoring import FindCopies

VERSION = 1
KIND, GROUPS, TRAIN = "near_copies", "groups.json", "train"


def kept_near_copies(work: Work, features: Stage) -> FindCopies:
    """Finds groups of near-copies as `near_copy_groups` does, and keeps them.

    Args:
        work: of a stage that reads features.
        features: those.
    """
    contents = work.upstream.of(features).contents

    def find(images: Features, chosen: Sequence[str], runtime: Runtime) -> list[frozenset[str]]:
        train, compared = train_part(features.code_version, images.image_ids), images_compared(images, chosen)
        asked = compared if len(compared) < len(images) else None
        read = {TRAIN: train, "contents": contents, "layers": images.layers, "asked": asked}
        kept = work.store.artifact(KIND, fingerprint({"version": VERSION, **read}))
        path = kept.at(GROUPS)
        if work.force or not kept.is_sound():
            found = near_copy_groups(images, compared, runtime)
            work.store.write_json(path, [sorted(group) for group in found])
            kept.commit({"asset": work.stage.name, TRAIN: train, "metadata": {"groups": len(found)}})
        with work.store.valid_content(path):
            groups = [frozenset(group) for group in work.store.read_json(path)]
        wanted = set(chosen)
        return [group for group in groups if group & wanted]

    return find
