"""Gates that need no real anomaly: a new state against its promise, and against the champion, on good images.

The images are nominal test images, which no state has learnt: those of the test folder, and held-out ones. An alarm is
a score above the state's own threshold.

- *False alarms.* A state breaks its promise if nominal images like those that its threshold comes from would give so
  many alarms in less than 1 of 100 cases. It alarms more than the champion if an exact paired test on the images that
  both have scored says so at 5 %. It is kept out if it alarms more, or if it breaks its promise and has more alarms on
  these images than the champion. A first state is promoted all the same, and the check fails: there is none to keep.
  Images of one group, declared or near-copies, count as one in both tests, as they do for the threshold: with the share
  of alarms among them. Twelve frames of one odd part are no twelve alarms.
- *Synthetic anomalies.* A state sees fewer of them if the share above its threshold is smaller than the champion's by
  more than the margin, and the same paired test says that this is no chance: then the check fails. It is kept out if it
  also tells them from good images less well (AUROC, by more than the margin), or sees less than half of what the
  champion sees. A higher threshold alone, as after odd good images were admitted, keeps no state out.
- *Nothing in common.* Where no number and no image compares the two, a state of other settings is kept out, and a
  state of the same settings, such as an update by new images, is promoted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ad_assets.metrics.alarms import chance_of_alarms, chance_of_more, most_without_an_alarm, rate_bounds

BROKEN = 0.01  # the probability under which a promise counts as broken
PAIRED = 0.05  # the level of the paired tests
BLIND = 0.5  # of the share of synthetic anomalies that the champion sees
SYNTHETIC = "synthetic_anomalies_seen"
Anomaly = tuple[str, str, int]  # image id, kind, strength


@dataclass(frozen=True)
class Judgement:
    """What a state makes of images that it has not learnt.

    Args:
        threshold: its own; None where it has none.
        nominal: image id -> score, of nominal test images.
        left_out: the scores of training images that the threshold comes from.
        synthetic: the scores of synthetic anomalies.
        groups: number of the group of each left-out score; empty: each is alone.
    """

    threshold: float | None
    nominal: Mapping[str, float]
    left_out: Sequence[float]
    synthetic: Mapping[Anomaly, float] = field(default_factory=dict)
    groups: Sequence[int] = ()

    def alarms(self) -> dict[str, bool]:
        """Image id -> whether a nominal test image raises an alarm; empty without a threshold."""
        return {} if self.threshold is None else {i: score > self.threshold for i, score in self.nominal.items()}

    def seen(self) -> dict[Anomaly, bool]:
        """Whether each synthetic anomaly raises an alarm; empty without a threshold."""
        return {} if self.threshold is None else {i: score > self.threshold for i, score in self.synthetic.items()}

    def rank_of(self, anomalies: Sequence[Anomaly]) -> float | None:
        """How well some synthetic anomalies are told from the nominal test images: AUROC; None without the latter."""
        from ad_assets.metrics.ranking import auroc

        if not self.nominal:
            return None
        labels = [0] * len(self.nominal) + [1] * len(anomalies)
        return auroc([*self.nominal.values(), *(self.synthetic[each] for each in anomalies)], labels)

    def breaks_promise(self, families: Mapping[str, str] | None = None) -> bool:
        """Whether so many alarms are too many for the left-out scores that the threshold comes from.

        Args:
            families: nominal test image -> its group, of those that have one.
        """
        alarms = self.alarms()
        if self.threshold is None or not alarms or not self.left_out:
            return False
        judged = group_shares(alarms, families or {})
        above = {str(position): score > self.threshold for position, score in enumerate(self.left_out)}
        left_out = group_shares(above, {str(position): str(group) for position, group in enumerate(self.groups)})
        count = math.floor(sum(judged.values()) + 1e-9)
        return chance_of_alarms(count, len(judged), sum(left_out.values()), len(left_out)) < BROKEN

    def numbers(self) -> dict[str, float]:
        """What a champion's history keeps of it; shares as fractions."""
        from ad_assets.metrics.ranking import auroc

        found: dict[str, float] = {}
        if alarms := self.alarms():
            low, high = rate_bounds(sum(alarms.values()), len(alarms))
            rate = sum(alarms.values()) / len(alarms)
            found |= {"judging_images": len(alarms), "false_alarm_rate": rate}
            found |= {"false_alarm_rate_low": low, "false_alarm_rate_high": high}
        if self.left_out and self.threshold is not None:
            found["left_out_above"] = sum(score > self.threshold for score in self.left_out) / len(self.left_out)
        if seen := self.seen():
            found[SYNTHETIC] = sum(seen.values()) / len(seen)
            for kind in dict.fromkeys(kind for _, kind, _ in seen):
                own = [value for (_, each, _), value in seen.items() if each == kind]
                found[f"synthetic_{kind}_seen"] = sum(own) / len(own)
                scores = [score for (_, each, _), score in self.synthetic.items() if each == kind]
                labels = [0] * len(self.nominal) + [1] * len(scores)
                found[f"synthetic_{kind}_auroc"] = auroc([*self.nominal.values(), *scores], labels)
        return found


@dataclass(frozen=True)
class Verdict:
    """The answer of a gate.

    Args:
        passed: whether its check passes.
        why: in words.
        keeps_out: whether the state stays out for it.
    """

    passed: bool
    why: str
    keeps_out: bool = False


def group_shares(alarms: Mapping[str, bool], families: Mapping[str, str]) -> dict[str, float]:
    """Group, or image that is in none -> the share of alarms among its images.

    >>> group_shares({"a": True, "b": False, "c": True}, {"a": "lot 1", "b": "lot 1"})
    {'lot 1': 0.5, 'image c': 1.0}
    """
    found: dict[str, list[bool]] = {}
    for image, alarm in alarms.items():
        found.setdefault(families.get(image, f"image {image}"), []).append(alarm)
    return {group: sum(each) / len(each) for group, each in found.items()}


def false_alarms(new: Judgement, old: Judgement | None, families: Mapping[str, str] | None = None) -> Verdict:
    """Whether a new state raises more alarms on nominal test images than it promises, or than the champion.

    Args:
        new: the new state.
        old: the champion.
        families: nominal test image -> its group, of those that have one.
    """
    families = families or {}
    alarms, before = new.alarms(), old.alarms() if old else {}
    if not alarms:
        return Verdict(True, "not measurable: there is no nominal test image, and none is held out")
    count, images = sum(alarms.values()), len(alarms)
    told = rate_in_words(count, images)
    common = [image for image in alarms if image in before]
    now, then = [alarms[image] for image in common], [before[image] for image in common]
    if common:
        told += f"; of {len(common)} that both have scored: {sum(now)}, the champion {sum(then)}"
    shares = [group_shares({i: found[i] for i in common}, families) for found in (before, alarms)]
    gains = [shares[1][group] - shares[0][group] for group in shares[0]]
    broken = new.breaks_promise(families)
    more = bool(common) and chance_of_more([gain < 0 for gain in gains], [gain > 0 for gain in gains]) < PAIRED
    groups = len(group_shares(alarms, families))
    if groups < images:
        told += f"; they are of {groups} groups, of which each counts as one"
    if broken:
        told += f"; more than its threshold explains (probability below {BROKEN:g})"
    if more:
        told += f"; more than the champion by a paired test (level {PAIRED:g})"
    worse = sum(now) > sum(then) if common else old is not None
    return Verdict(not (broken or more), told, more or (broken and old is not None and worse))


def synthetic_anomalies(new: Judgement, old: Judgement | None, margin: float) -> Verdict:
    """Whether a new state sees fewer synthetic anomalies than the champion by more than a margin."""
    seen, before = new.seen(), old.seen() if old else {}
    if not seen:
        return Verdict(True, "not measurable: there is no nominal test image to draw them into")
    told = f"{_share(list(seen.values()))} of {len(seen)} synthetic anomalies seen (not a rate of real defects)"
    common = [anomaly for anomaly in seen if anomaly in before]
    if not common:
        return Verdict(True, told)
    now, then = [seen[each] for each in common], [before[each] for each in common]
    lost = (sum(then) - sum(now)) / len(common)
    told += f"; of {len(common)} that both have scored: {_share(now)}, the champion {_share(then)}"
    if old is None or lost <= margin or chance_of_more(now, then) >= PAIRED:
        return Verdict(True, told)
    told += f"; more than {margin:g} behind"
    rank, rank_before = new.rank_of(common), old.rank_of(common)
    worse = rank is not None and rank_before is not None and rank < rank_before - margin
    told += f", AUROC {rank:.3f} after {rank_before:.3f}" if rank is not None and rank_before is not None else ""
    return Verdict(False, told, worse or sum(now) < BLIND * sum(then))


def nothing_in_common(new: Judgement, old: Judgement | None, *, same_settings: bool, compared: bool) -> Verdict:
    """Whether a state of other settings than the champion's would be promoted unseen.

    Args:
        new: of the new state.
        old: of the champion; None where its scores are gone.
        same_settings: whether method, options and extractor are the champion's.
        compared: whether both have a metric on the same test images.
    """
    before = old.alarms().keys() if old else set()
    if same_settings or compared or new.alarms().keys() & before:
        return Verdict(True, "")
    return Verdict(
        False,
        "its settings are others than the champion's, and no test image compares the two: hold images out "
        "(production.held_out) or add test images, or promote it by hand",
        keeps_out=True,
    )


def rate_in_words(alarms: int, images: int) -> str:
    """Alarms among nominal images, and the rate that so many images rule out, in words.

    >>> rate_in_words(0, 60)
    'no alarm among 60 images: 60 images promise at most 4.87 % (95 %)'
    """
    if not alarms:
        most = 100 * most_without_an_alarm(images)
        return f"no alarm among {images} images: {images} images promise at most {most:.3g} % (95 %)"
    low, high = rate_bounds(alarms, images)
    return f"{alarms} alarms among {images} images: a rate of {100 * low:.3g} to {100 * high:.3g} % (95 %)"


def _share(flags: Sequence[bool]) -> str:
    return f"{100 * sum(flags) / len(flags):.0f} %"
