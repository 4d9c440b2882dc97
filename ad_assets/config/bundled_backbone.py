"""The embedded backbone in place of others, so that every benchmark file can be tried without any download.

Numbers of another backbone are other numbers: whoever asks for this gets its name beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ad_assets.backbones.class_token import CLASS_TOKEN
from ad_assets.backbones.tap_table import tap_table

BACKBONE = "tf_efficientnet_lite0"
_KEPT = ("resize", "crop", "interpolation", "pre_activation", "precision", "engine")
# Of architectures whose stages are not tabled: as many taps as are asked for, around the usual 1/8 and 1/16.
_USUAL = {1: (16,), 2: (8, 16), 3: (4, 8, 16), 4: (4, 8, 16, 32)}


def bundled(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section of an extractor with the embedded backbone, taps at the same reductions, and the same geometry.

    Sections that name bundled weights are left as they are, and so are those that are wrong, which is reported later.

    >>> bundled({"backbone": "resnet18.tv_in1k", "taps": ["layer2", "/16"], "resize": 256, "crop": 224})["taps"]
    ['blocks.2', 'blocks.4']
    """
    taps = section.get("taps")
    if section.get("weights") == "bundled" or not isinstance(taps, Sequence) or isinstance(taps, str):
        return dict(section)
    stages = {reduction: stage for stage, (_, reduction) in tap_table()[BACKBONE].items()}  # the deepest of each
    taps = [str(tap) for tap in taps if tap != CLASS_TOKEN]  # which it has not
    reductions = _reductions(str(section.get("backbone")), taps)
    if len(set(reductions) & set(stages)) < len(taps):
        return dict(section)
    kept = {key: section[key] for key in _KEPT if key in section}
    return {"backbone": BACKBONE, "weights": "bundled", "taps": [stages[step] for step in reductions], **kept}


def _reductions(backbone: str, taps: Sequence[str]) -> tuple[int, ...]:
    stages = tap_table().get(backbone.partition(".")[0])
    if stages is None or any(tap not in stages and not tap.startswith("/") for tap in taps):
        return (
            tuple(int(tap[1:]) for tap in taps) if all(t.startswith("/") for t in taps) else _USUAL.get(len(taps), ())
        )
    return tuple(int(tap[1:]) if tap.startswith("/") else stages[tap][1] for tap in taps)
