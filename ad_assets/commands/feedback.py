"""``feedback``: what a person says of inspected images after the fact."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ad_assets.commands.common import Commands

if TYPE_CHECKING:
    from ad_assets.prediction.feedback import Action

_WORDS: dict[Action, str] = {
    "false_alarm": "false alarm",
    "missed": "missed",
    "confirmed": "confirmed",
    "undo": "undone",
}


def add(commands: Commands) -> None:
    """Add the command."""
    feedback = commands.add(
        "feedback", _feedback, "say what inspected images are, so that the line learns it", commands.shared
    )
    feedback.add_argument("dataset", help="a production dataset of the benchmark file")
    feedback.add_argument("category", help="one of its categories")
    feedback.add_argument(
        "images", nargs="+", metavar="IMAGE", help="path of a file, or the first digits of the id of an inspected image"
    )
    said = feedback.add_mutually_exclusive_group(required=True)
    for action, help_text in (
        ("false_alarm", "it is good: the next run trains on it, and predictions raise no alarm for it any more"),
        ("missed", "it is a defect without an alarm: a test image from now on, never trained on"),
        ("confirmed", "its alarm was right: never trained on"),
        ("undo", "what was said of it stands no more"),
    ):
        option = f"--{action.replace('_', '-')}"
        said.add_argument(option, dest="action", action="store_const", const=action, help=help_text)
    feedback.add_argument("--reason", default="", help="the reason, recorded in the ledger")
    feedback.add_argument(
        "--defect", metavar="NAME", help="with --missed and --confirmed: the folder below test (default: missed)"
    )


def _feedback(options: argparse.Namespace) -> int:
    from ad_assets.commands.production import load_line
    from ad_assets.prediction.feedback import give_feedback

    benchmark = load_line(options)
    for image in options.images:
        [given] = give_feedback(
            options.dataset,
            options.category,
            [image],
            options.action,
            reason=options.reason,
            defect=options.defect,
            config=benchmark,
        )
        earlier = f"  (was {_WORDS[given.earlier]})" if given.earlier else ""
        print(f"{_WORDS[given.action]:<11}  {given.image[:12]}  {given.name}{earlier}")
        if given.removed:
            print(f"{'':<11}  removed {given.removed}")
        if given.written:
            print(f"{'':<11}  written to {given.written}")
    print(
        f"the next run of {options.dataset} [{options.category}] applies it, or: ad-assets materialize "
        f"{options.dataset} --category {options.category}",
        file=sys.stderr,
    )
    return 0
