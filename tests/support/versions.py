"""What each versioned module makes, by its code: `python -m tests.support.versions` writes down what is there now.

A version is part of the addresses of all that its module makes. Code that makes something else under an old version
finds what the old code made, and says that everything is up to date. What a module computes with has often no version
of its own and counts as its code.
"""

import ast
import hashlib
import importlib
import inspect
import json
import pkgutil
import sys
from importlib.util import find_spec
from pathlib import Path

from ad_assets.datasets import READERS
from ad_assets.graph import stages
from ad_assets.methods import METHODS

KNOWN = Path(__file__).parents[1] / "data" / "versions.json"
# Whose modules count as the code of those that import them, unless they have a version of their own.
PARTS = (
    *("ad_assets.kernels.", "ad_assets.methods.", "ad_assets.metrics", "ad_assets.graph.stages."),
    *("ad_assets_runtime.conformal", "ad_assets_runtime.defect_regions"),
)
PYTHON = "{}.{}".format(*sys.version_info)  # each release has a syntax tree of its own
Versions = dict[str, dict[str, int | str]]


def code_of(module: str) -> str:
    """Hash of the code of a module and of those that it imports, as far as these have no version."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            loaded = importlib.import_module(name)
            if name != module and hasattr(loaded, "VERSION"):
                continue
            tree = ast.parse(Path(inspect.getfile(loaded)).read_text(encoding="utf-8"))
            waiting += {each for each in _imported(tree) if each.startswith(PARTS)}
            found[name] = _without_words(tree)
    return hashlib.sha256(json.dumps(sorted(found.values())).encode()).hexdigest()[:16]


def versions_now() -> Versions:
    """Version and code of each stage, method and reader of this project."""
    found: Versions = {}
    for info in pkgutil.iter_modules(stages.__path__, f"{stages.__name__}."):
        version = getattr(importlib.import_module(info.name), "VERSION", None)
        if version is not None:
            found[info.name] = {"version": version, "code": code_of(info.name)}
    for each in (*METHODS.values(), *READERS.values()):
        if each.__module__.startswith("ad_assets."):
            found[each.__module__] = {"version": each.version, "code": code_of(each.__module__)}
    return dict(sorted(found.items()))


def _imported(tree: ast.Module) -> set[str]:
    """The modules that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in below if name.startswith(PARTS) and _is_module(name)} or {node.module}
    return found


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False


def _without_words(tree: ast.Module) -> str:
    """The code, without docstrings, comments, layout and imports, which make nothing."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _makes_nothing(each)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _makes_nothing(node: ast.AST) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


if __name__ == "__main__":
    KNOWN.write_text(json.dumps({"python": PYTHON, "modules": versions_now()}, indent=1) + "\n", encoding="utf-8")
