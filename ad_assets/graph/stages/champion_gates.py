"""What the gates say of a new state: whether it may take the champion's place, and if not, why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ad_assets.graph.stage import Check, CheckResult, Stage, Work
from ad_assets.graph.stages.bundle import read_parity
from ad_assets.graph.stages.fed_back_alarms import alarms_on, learnt_images
from ad_assets.graph.stages.judgement import ALARMS, SYNTHETIC, verdicts_of
from ad_assets.graph.stages.metrics import rate_of
from ad_assets.production.champion_history import (
    PROMOTED,
    ChampionCandidate,
    History,
    KeptOut,
    behind_champion,
    below_floors,
    not_measurable,
)
from ad_assets.production.feedback_ledger import false_alarms
from ad_assets.production.nominal_gates import Verdict

FLOORS, BEHIND, FEEDBACK = "above_floors", "no_worse_than_champion", "no_alarm_on_feedback"
CHECKS = (
    Check(FLOORS, "No metric of the new state is below the floor that the benchmark file sets."),
    Check(BEHIND, "No metric of the new state is behind the champion's by more than the margin."),
    Check(
        ALARMS,
        "On good images that it has not learnt the new state alarms no more often than its threshold promises "
        "and than the champion does.",
    ),
    Check(
        SYNTHETIC,
        "The new state sees no fewer synthetic anomalies than the champion, by more than the margin. They are "
        "a smoke alarm and say nothing of the rate of real defects.",
    ),
    Check(
        FEEDBACK,
        "The new state raises no alarm for an image that a person called a false alarm and that it has learnt.",
    ),
)


@dataclass(frozen=True)
class Standing:
    """A new state against one champion.

    Args:
        behind: metrics in which it is behind, in words.
        verdicts: the answers of the gates that need no real anomaly, by the names of their checks.
        repeated: false alarms that it raises and that champion does not, in words.
        kept_out: why it does not take the place; empty: it does.
    """

    behind: Sequence[str]
    verdicts: Mapping[str, Verdict]
    repeated: Sequence[str]
    kept_out: str


class Gates:
    """The gates before one new state, with what they say whoever is champion.

    Args:
        work: of the stage `champion`.
        challenger: the new state.
        state: the stage that made it.
        metrics: the stage that measured it.
        bundle: the stage of its bundle, if it has one.
        floors: metric -> the least that it may be.
        margin: see `Production`.
        families: groups of nominal test images, as `verdicts_of` asks for them.
    """

    def __init__(
        self,
        work: Work,
        challenger: ChampionCandidate,
        state: Stage,
        metrics: Stage,
        bundle: Stage | None,
        floors: Mapping[str, float],
        margin: float,
        families: Callable[[Sequence[str], bool], Mapping[str, str]],
    ) -> None:
        self._work, self._challenger, self._kind = work, challenger, state.kind
        self._margin, self._families = margin, families
        self._rate = rate_of(metrics, work.partition)
        self._unknown = not_measurable(challenger, floors)
        measured = {metric: floor for metric, floor in floors.items() if metric not in self._unknown}
        self._below = below_floors(challenger.numbers, measured)
        fault = read_parity(work.input(bundle)).fault if bundle else ""
        self._differs = [f"its bundle: {fault}"] if fault else []
        said = false_alarms(work.store, work.stage.key[0], work.partition)
        self._learnt = learnt_images(work, state.kind, challenger, said)
        alarms = alarms_on(work, state.kind, challenger, self._learnt, self._rate) if self._learnt else None
        self._alarms = alarms or set()

    def standing(self, before: History) -> Standing:
        """The new state against the champion of a history."""
        champion = before.champion
        behind = behind_champion(self._challenger, champion, self._margin)
        verdicts = verdicts_of(self._work.store, self._challenger, champion, self._margin, self._families)
        repeated = self._repeated(champion)
        reasons = [*self._below, *behind, *(verdict.why for verdict in verdicts.values() if verdict.keeps_out)]
        reasons += [*repeated, *self._differs]
        reasons += ["it was rolled back from"] if self._challenger.state in before.refused else []
        return Standing(behind, verdicts, repeated, "; ".join(reasons))

    def after(self, before: History, standing: Standing) -> History:
        """The history with the new state as champion, or with why it is not."""
        if standing.kept_out:
            return replace(before, kept_out=KeptOut(self._challenger.state, standing.kept_out))
        if _same(before.champion, self._challenger):
            return replace(before, kept_out=None)
        return before.with_champion(self._challenger, PROMOTED, "passed its gates" if before.champion else "the first")

    def results(self, standing: Standing) -> tuple[CheckResult, ...]:
        """The answers of `CHECKS`."""
        feedback = _of_feedback(len(self._learnt), self._alarms, standing.repeated)
        return (
            CheckResult(FLOORS, not self._below, {"why": _of_floors(self._below, self._unknown)}),
            CheckResult(BEHIND, not standing.behind, {"why": "; ".join(standing.behind) or "no metric fell behind"}),
            *(CheckResult(name, each.passed, {"why": each.why}) for name, each in standing.verdicts.items()),
            CheckResult(FEEDBACK, not self._alarms, {"why": feedback}),
        )

    def _repeated(self, champion: ChampionCandidate | None) -> list[str]:
        """The false alarms that are raised again, though the champion had learnt not to raise them."""
        if not self._alarms or champion is None or champion.state == self._challenger.state:
            return []
        before = alarms_on(self._work, self._kind, champion, sorted(self._alarms), self._rate)
        again = sorted(self._alarms - (before or set()))
        return [f"alarms on the false alarm {image[:12]}, and the champion does not" for image in again]


def _of_feedback(learnt: int, alarms: Collection[str], repeated: Sequence[str]) -> str:
    if repeated:
        return "; ".join(repeated)
    if alarms:
        images = ", ".join(image[:12] for image in sorted(alarms))
        return f"of {learnt} false alarms that it has learnt it alarms on {images} still: a person's word overrides it"
    return f"no alarm on any of {learnt} false alarms that it has learnt" if learnt else "no false alarm was fed back"


def _of_floors(below: Sequence[str], unknown: Sequence[str]) -> str:
    if unknown:
        return "; ".join([*below, f"not measurable: no anomalous test image ({', '.join(unknown)})"])
    return "; ".join(below) or "no metric is below its floor"


def _same(champion: ChampionCandidate | None, challenger: ChampionCandidate) -> bool:
    """Whether a candidate is the champion already, with the same threshold and numbers."""

    def identity(each: ChampionCandidate) -> tuple[str, ...]:
        return each.state, each.score_maps, each.metrics, each.synthetic, each.bundle

    return champion is not None and identity(champion) == identity(challenger)
