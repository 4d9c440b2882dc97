"""Command lines that work, shown by ``--help`` of each command; the words of a command -> its examples."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

_PARTS = "--config parts.yaml"
EXAMPLES: dict[str, tuple[str, ...]] = {
    "init": ("ad-assets init images", "ad-assets init /data/line7 -o line7.yaml"),
    "demo": ("ad-assets demo",),
    "materialize": (
        f"ad-assets materialize {_PARTS}",
        f"ad-assets materialize parts --category bolt {_PARTS}",
        f"ad-assets materialize --set datasets.parts.detectors.patchcore.sigma=2 {_PARTS}",
    ),
    "status": (f"ad-assets status {_PARTS}", f"ad-assets status --json {_PARTS} | jq length"),
    "settings": (
        "ad-assets settings patchcore          # all that a detector with this method has",
        "ad-assets settings coreset_ratio      # one key, wherever it stands",
        "ad-assets settings compute            # a section",
    ),
    "dev": (f"ad-assets dev {_PARTS}",),
    "doctor": (f"ad-assets doctor {_PARTS}",),
    "gc": (f"ad-assets gc {_PARTS}", f"ad-assets gc --delete --older-than 168 {_PARTS}"),
    "pack": (f"ad-assets pack {_PARTS}",),
    "predict": (
        f"ad-assets predict {_PARTS} new.png",
        f"ad-assets predict {_PARTS} --category bolt --out decisions folder",
        f"ad-assets predict {_PARTS} --json folder | jq -r 'select(.decision == \"anomalous\") | .image'",
    ),
    "latency": (f"ad-assets latency parts {_PARTS}",),
    "table": ("ad-assets table --list", "ad-assets table hetmm/4"),
    "data check": (f"ad-assets data check {_PARTS}", "ad-assets data check --reader mvtec_ad --root /data/mvtec_ad"),
    "data describe": (f"ad-assets data describe --out overview {_PARTS}",),
    "data history": (f"ad-assets data history parts bolt {_PARTS}",),
    "data diff": (f"ad-assets data diff parts bolt 3 4 {_PARTS}",),
    "export maps": ("ad-assets export maps mvtec_ad patchcore_10 --layout mvtec_ad --out maps --config mvtec_ad",),
    "export leaderboard": (
        "ad-assets export leaderboard --format csv --out leaderboard.csv",
        "ad-assets export leaderboard --format latex --metric pixel_auroc --out -",
    ),
    "export bundle": (f"ad-assets export bundle parts patchcore --category bolt --out bundle {_PARTS}",),
    "inspections": (f"ad-assets inspections parts {_PARTS}",),
    "history": (f"ad-assets history parts patchcore bolt {_PARTS}",),
    "promote": (f"ad-assets promote parts patchcore bolt --reason 'new lamp, checked by hand' {_PARTS}",),
    "rollback": (f"ad-assets rollback parts patchcore bolt --reason 'false alarms since Monday' {_PARTS}",),
    "quarantine": (
        f"ad-assets quarantine parts {_PARTS}",
        f"ad-assets quarantine parts bolt --admit 3f2a 91bc {_PARTS}",
    ),
    "feedback": (f"ad-assets feedback parts bolt inspected/1024.png --false-alarm {_PARTS}",),
    "bisect": (f"ad-assets bisect parts patchcore bolt --metric image_auroc {_PARTS}",),
    "explain": (f"ad-assets explain parts patchcore bolt new.png --out why {_PARTS}",),
    "serve": (f"ad-assets serve {_PARTS} --port 8000",),
    "take-outbox": (f"ad-assets take-outbox s3://bucket/outbox {_PARTS}",),
    "completion": ("ad-assets completion >> ~/.bashrc",),
}


def commands_of(parser: argparse.ArgumentParser, words: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands below a parser that carry something out, each with its words."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield words, parser
    for action in below:
        for name, command in action.choices.items():
            yield from commands_of(command, f"{words} {name}".strip())


def show_examples(parser: argparse.ArgumentParser) -> None:
    """Let the help of each command end with its examples."""
    for words, command in commands_of(parser):
        if found := EXAMPLES.get(words):
            command.epilog = "\n  ".join(["examples:" if found[1:] else "example:", *found])
            command.formatter_class = argparse.RawDescriptionHelpFormatter
