"""What an asset partition was before, where what it found in its state can serve a state that grew."""

from __future__ import annotations

from dataclasses import dataclass

from ad_assets.graph.provenance import MADE_OF, contents_of, is_outdated
from ad_assets.graph.stage import Stage, Work
from ad_assets.store.store import Artifact


@dataclass(frozen=True)
class Earlier:
    """An artifact, and that of the state that it was made with."""

    artifact: Artifact
    state: Artifact


def earlier_of(work: Work, state: Stage) -> Earlier | None:
    """What this asset partition was under the same settings; None where it or its state is damaged, gone or remade."""
    head = work.before
    if work.force or work.verify or head is None or head.code_version != work.stage.code_version:
        return None
    found = Earlier(
        work.store.artifact(work.stage.kind, head.version), work.store.artifact(state.kind, head.parts["state"])
    )
    if not (found.artifact.is_sound() and found.state.is_sound()):
        return None
    made = found.artifact.record().get(MADE_OF, {})
    # The state at that address may have been made again since, with other rows; features may have been remade.
    if made.get(f"{state.kind}/{found.state.version}") != contents_of(found.state.record()):
        return None
    features = {name: own for name, own in work.stage.made_of(work.upstream).items() if name.startswith("features/")}
    return None if is_outdated(made, features) else found
