"""What would run, as people read it: a line for assets of one lane that run for one reason, and as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ad_assets.defs.plan import Step

SHOWN = 3  # categories by name
FOLLOWS = " is rebuilt"


@dataclass
class Line:
    """Assets of one lane that the same happens to, in the order of the graph.

    Args:
        lane: dataset and lane, or dataset alone.
        action: as `Step.action`.
        reason: that of the first of them; the others follow from it, or have the same.
        names: last parts of their keys.
        categories: of each of them.
    """

    lane: tuple[str, ...]
    action: str
    reason: str
    names: list[str] = field(default_factory=list)
    categories: tuple[str, ...] = ()


def plan_values(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The steps of a plan as JSON values."""
    return [
        {"asset": step.stage.name, "category": step.partition, "action": step.action, "reason": step.reason}
        for step in steps
    ]


def plan_text(steps: Sequence[Step]) -> str:
    """The steps of a plan by dataset and lane, each lane's in few lines.

    ::

        parts
          compute  patchcore: memory_bank, score_maps, metrics  [bolt, nut]  made under another setting: ...
    """
    lines = _lines(steps)
    cells = [(line.action, _assets(line), _categories(line)) for line in lines]
    widths = [max(len(cell[column]) for cell in cells) for column in range(3)]
    text, dataset = [], ""
    for line, (action, assets, categories) in zip(lines, cells, strict=True):
        if line.lane[0] != dataset:
            dataset = line.lane[0]
            text.append(dataset)
        text.append(f"  {action:<{widths[0]}}  {assets:<{widths[1]}}  {categories:<{widths[2]}}  {line.reason}")
    return "\n".join(text)


def plan_rows(steps: Sequence[Step]) -> tuple[list[tuple[str, ...]], list[int]]:
    """The lines of `plan_text` as rows below heads, and the numbers of those that end a dataset."""
    lines = _lines(steps)
    rows: list[tuple[str, ...]] = [("dataset", "what", "assets", "categories", "why")]
    rows += [(line.lane[0], line.action, _assets(line), _categories(line), line.reason) for line in lines]
    ends = [number for number, (line, following) in enumerate(pairwise(lines)) if line.lane[0] != following.lane[0]]
    return rows, ends


def _lines(steps: Sequence[Step]) -> list[Line]:
    lines: list[Line] = []
    alike: dict[tuple[tuple[str, ...], str, tuple[str, ...]], list[Line]] = {}
    for group in _groups(steps):
        first = group[0]
        lane, name = first.stage.key[:-1], first.stage.key[-1]
        categories = tuple(step.partition for step in group if step.partition is not None)
        follows = first.reason.endswith(FOLLOWS)
        cause = first.reason.removesuffix(FOLLOWS).rpartition("/")[2]
        known = alike.setdefault((lane, first.action, categories), [])
        for line in known:
            # What follows from what runs is told with it, or with what else follows.
            if line.reason == first.reason or (follows and (cause in line.names or line.reason.endswith(FOLLOWS))):
                line.names.append(name)
                break
        else:
            known.append(Line(lane, first.action, first.reason, [name], categories))
            lines.append(known[-1])
    # Datasets and lanes stand where their first line does; what is of all lanes comes last.
    datasets = {name: place for place, name in enumerate(dict.fromkeys(line.lane[0] for line in lines))}
    lanes = {lane: place for place, lane in enumerate(dict.fromkeys(line.lane for line in lines))}
    return sorted(lines, key=lambda line: (datasets[line.lane[0]], not line.categories, lanes[line.lane]))


def _groups(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps of an asset with the same action and reason, in the order in which they begin."""
    groups: dict[tuple[str, str, str], list[Step]] = {}
    for step in steps:
        groups.setdefault((step.stage.name, step.action, step.reason), []).append(step)
    return list(groups.values())


def _assets(line: Line) -> str:
    names = ", ".join(line.names)
    return f"{'/'.join(line.lane[1:])}: {names}" if line.lane[1:] else names


def _categories(line: Line) -> str:
    if not line.categories:
        return ""
    if len(line.categories) > SHOWN:
        return f"[{len(line.categories)} categories]"
    return f"[{', '.join(line.categories)}]"
