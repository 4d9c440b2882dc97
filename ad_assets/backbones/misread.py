"""Features that releases before read with other axes for the channels, which must not be found again."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ad_assets.backbones.tap_table import tap_table

# Maps (B, h, w, C), which releases before read as (B, C, h, w): of all modules of some networks, of whole blocks in
# others, and of parts of blocks anywhere. Tokens were refused.
_CHANNELS_LAST = re.compile(r"(test_)?mambaout|swin_|swinv2_(?!cr_)|hieradet_|sam2_hiera|sequencer|samvit_|volo_")
_CHANNELS_LAST_BLOCKS = re.compile(r"(swinv2_cr_|gcvit|tiny_vit).* .*\bblocks\b")
_CHANNELS_LAST_PARTS = re.compile(
    r".* ((levels\..*\.)?norm$|patch_embed\b(?!\.proj)|encoder\b"
    r"|stages\..*\b(global_norm|norm\d?|ls\d?|drop_path\d?|mlp|fc\d?|act|grn|pwconv\d?|downsample|attn(_block|_grid)?)\b)"
)


def was_misread(architecture: str, taps: Iterable[str]) -> bool:
    """Whether older releases may have taken other axes for the channels; True costs no more than new features."""
    if architecture in tap_table():
        return False
    if _CHANNELS_LAST.match(architecture):
        return True
    named = [f"{architecture} {tap}" for tap in taps]
    return any(rule.match(tap) for tap in named for rule in (_CHANNELS_LAST_BLOCKS, _CHANNELS_LAST_PARTS))
