"""Benchmark files with something wrong in them: the shipped ones, mutated as text and as trees."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import yaml

from ad_assets.config.load import CONFIGS

Place = tuple[Any, Any]  # a container, and a key or position in it
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

VALUES: list[Any] = [
    *[None, True, False, 0, -1, 1, 7, 10**6, 10**15, 10**40, 0.0, -0.5, 0.5, 1e300, float("nan"), float("inf")],
    *["", " ", "x", "on", "null", "01", "1e3", "0x10", "a\n", "a\0b", "ä", "x" * 5000, "a.b.c", "../..", "[", "{}"],
    *["nan", "1" * 400, "2024-01-01", "cuda:99999999999", "random(1)", "random(99999999999999999999)", "/99999999"],
    *["* * * * *", "* * * * * *", "s3://k:p@b/x", "s3://[", "all", "\u202e", "😀", "~", "True"],
    *[[], {}, [[]], [{}], [None], [1, 2, 3], ["a", "a"], [1] * 300, {"a": {"b": {"c": 1}}}, {"": 1}, {"x" * 300: 1}],
]
KEYS: list[Any] = [
    "",
    "x",
    "Names",
    "a b",
    "a\n",
    "01",
    "on",
    "x" * 300,
    1,
    1.5,
    True,
    None,
    "datasets",
    "method",
    "🙂",
]
TEXTS = [
    "\t",
    ":",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!!int ",
    "!x ",
    "#",
    "'",
    '"',
    "|",
    ">",
    "?",
    "%",
    "---\n",
    "\x07",
]
TEXTS += [
    "\ufeff",
    "\u2028",
    "9" * 5000,
    "<<: *a\n",
    "a: &a [*a]\n",
    "\r",
    "\n\n",
    "   ",
    "[" * 400,
    "&a {a: *a}",
    "1:30",
]


def mutants(number: int, seed: int) -> Iterator[bytes]:
    """So many files, the same ones for a seed; some of the mutations leave a file right."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(CONFIGS.glob("*.yaml"))]
    trees = [yaml.safe_load(text) for text in texts]
    # Text is parsed in Python, so that of the longer files would take most of the time.
    texts = sorted(texts, key=len)[: len(texts) // 2]
    for count in range(number):
        chance = random.Random(f"{seed} {count}")  # noqa: S311 - no secret
        if chance.random() < 0.4:
            yield _text(chance, chance.choice(texts))
        else:
            yield _tree(chance, _part(chance, chance.choice(trees)))


def _text(chance: random.Random, text: str) -> bytes:
    for _ in range(chance.randint(1, 3)):
        here, there = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        there = min(there, here + chance.choice([1, 3, 30, 300]))
        odd = chr(chance.choice([0, 9, 32, 127, 160, 0x2028, 0x1F600]))
        head, cut, tail = text[:here], text[here:there], text[there:]
        text = chance.choice(
            [head + chance.choice(TEXTS) + cut + tail, head + tail, head + cut + cut + tail, head + odd + tail]
        )
    data = text.encode(chance.choice(["utf-8"] * 6 + ["utf-16", "utf-8-sig"]), errors="replace")
    if chance.random() < 0.1:
        place = chance.randrange(len(data) + 1)
        data = data[:place] + bytes([chance.randrange(256)]) + data[place:]
    return data


def _part(chance: random.Random, tree: dict[str, Any]) -> dict[str, Any]:
    """A file with one of the datasets that have detectors, some of these, and the studies of them; still right."""
    tree = copy.deepcopy(tree)
    name = chance.choice([name for name, section in tree["datasets"].items() if "detectors" in section])
    kept = {name, tree["datasets"][name].get("of", name)}
    tree["datasets"] = {key: section for key, section in tree["datasets"].items() if key in kept}
    tree.pop("comparisons", None)
    for section in tree["datasets"].values():
        lanes = section.get("detectors", {})
        kept = set(list(lanes)[: chance.randint(1, 3)])
        kept -= {key for key in kept if not set(lanes[key].get("members", ())) <= kept}
        section["detectors"] = {key: lanes[key] for key in lanes if key in kept}
        studies = section.get("studies", {})
        section["studies"] = {key: study for key, study in studies.items() if {*_listed(study["base"])} <= set(kept)}
    if chance.random() < 0.3:
        gates = {"gatekeeper": next(iter(tree["datasets"][name]["detectors"])), "floors": {"image_auroc": 0.9}}
        kept_keys = {key: tree["datasets"][name][key] for key in ("detectors", "studies")}
        tree["datasets"] = {name: {"reader": "folder", "root": "images", "production": gates, **kept_keys}}
        tree["automation"] = {"mode": "nightly", "nightly": "0 2 * * *", "timezone": "Europe/Berlin"}
    return tree


def _tree(chance: random.Random, tree: Any) -> bytes:
    for _ in range(chance.randint(1, 4)):
        places = list(_places(tree))
        holder, key = chance.choice(places)
        other, its_key = chance.choice(places)
        kind = chance.randrange(6)
        if kind == 0:
            holder[key] = copy.deepcopy(chance.choice(VALUES))
        elif kind == 1:
            del holder[key]
        elif kind == 2 and isinstance(holder, dict):
            holder[chance.choice(KEYS)] = holder.pop(key)
        elif kind == 3:
            holder[key] = copy.deepcopy(other[its_key])
        elif kind == 4 and isinstance(holder, dict):
            holder[chance.choice(KEYS)] = copy.deepcopy(chance.choice(VALUES))
        else:
            holder[key] = [copy.deepcopy(holder[key])] * chance.choice([1, 2, 40])
        if not tree:
            break
    text: str = yaml.dump(tree, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=200)
    return text.encode("utf-8", errors="replace")


def _places(value: Any) -> Iterator[Place]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield value, key
        yield from _places(inner)


def _listed(base: Any) -> list[str]:
    return base if isinstance(base, list) else [base]
