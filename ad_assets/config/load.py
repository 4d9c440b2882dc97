"""Reads and checks benchmark files: the only place that parses YAML.

A value comes from, weakest first: the file (``AD_ASSETS_CONFIG`` or ``--config``; a path, or the name of a file in
``ad_assets/config/benchmarks``), the environment (``AD_ASSETS__COMPUTE__BATCH_SIZE=8``), the command line
(``--set compute.batch_size=8``). In the environment and on the command line a list, a mapping and a quoted text are
YAML, and any other value is taken as it stands, ``#`` and all. For relative paths see `ad_assets.config.paths`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ad_assets.config import bundled_backbone as substitution
from ad_assets.config.benchmark import Benchmark, Dataset
from ad_assets.config.faults import ConfigError, did_you_mean, fault_list, shown
from ad_assets.config.parse import SectionParser
from ad_assets.config.paths import begin_at, still_moved
from ad_assets.config.yaml_tree import MOST_DEPTH, decoded, read_tree, read_value
from ad_assets.datasets import READERS

__all__ = [
    "CONFIGS",
    "ConfigError",
    "find_file",
    "is_shipped",
    "load_config",
    "load_dataset",
    "materialize_command",
    "suited",
]

CONFIGS = Path(__file__).parent / "benchmarks"
DEFAULT = "demo"
ENV_FILE = "AD_ASSETS_CONFIG"
ENV_PREFIX = "AD_ASSETS__"


def load_config(
    source: str | Path | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
    *,
    bundled: bool = False,
) -> Benchmark:
    """Read and check a benchmark file.

    Args:
        source: a path, the name of a shipped file, or None for ``AD_ASSETS_CONFIG`` and then the demo.
        overrides: ``dotted.key=value`` texts; values are YAML.
        environ: where ``AD_ASSETS__SECTION__KEY`` variables are looked up.
        bundled: the embedded backbone in place of every other, as `substitution` has it.

    Raises:
        ConfigError: anything is wrong; all faults at once.
    """
    path = find_file(str(source or environ.get(ENV_FILE) or DEFAULT))
    tree = _read_yaml(path)
    moved = {} if is_shipped(path) else begin_at(path.parent, tree)
    for name, value in sorted(environ.items()):
        if name.startswith(ENV_PREFIX):
            _assign(tree, name.removeprefix(ENV_PREFIX).lower().split("__"), value, name)
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {shown(text)}: write it as dotted.key=value")
        _assign(tree, key.split("."), value, f"--set {key}")
    _check_moved(path, still_moved(tree, moved))
    extractors = tree.get("extractors")
    if bundled and isinstance(extractors, dict):
        tree["extractors"] = {
            name: substitution.bundled(section) if isinstance(section, dict) else section
            for name, section in extractors.items()
        }
    return SectionParser(str(path)).benchmark(tree)


def load_dataset(reader: str, root: str | None, options: Iterable[str] = ()) -> Dataset:
    """A dataset without a benchmark file, called like its reader.

    Args:
        reader: name of the reader.
        root: its folder; None: its default.
        options: ``option=value`` texts of its other options; values are YAML.

    Raises:
        ConfigError: anything is wrong; all faults at once.
    """
    section: dict[str, Any] = {"reader": reader, **({} if root is None else {"root": root})}
    for text in options:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {shown(text)}: with --reader, write it as option=value")
        _assign(section, key.split("."), value, f"--set {key}")
    if reader not in READERS:
        raise ConfigError(f"--reader: unknown value {shown(reader)}; choose from: {', '.join(sorted(READERS))}")
    return SectionParser(f"--reader {reader}").benchmark({"datasets": {reader: section}}).datasets[reader]


def find_file(source: str) -> Path:
    """The path of a benchmark file, given as a path or as the name of a shipped one."""
    shipped = CONFIGS / f"{source}.yaml"
    for path in (Path(source), shipped):
        try:
            if path.is_file():
                return path
        except OSError:  # such as a name that is too long
            continue
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    beside: list[str] = []
    with suppress(OSError):
        if Path(source).is_dir():
            raise ConfigError(f"{shown(source, 500)} is a folder; `ad-assets init` writes a benchmark file for one")
        beside = [str(path) for path in Path(source).parent.iterdir() if path.suffix in (".yaml", ".yml")]
    close = did_you_mean(str(Path(source)), [*beside, *names])
    there = f"give a path, or one of the shipped names: {', '.join(names)}"
    raise ConfigError(f"no benchmark file {shown(source, 500)}; {close}{there}")


def is_shipped(file: str | Path) -> bool:
    """Whether a benchmark file, by its path, is one of those that come with the package."""
    return Path(file).parent == CONFIGS


def suited(
    source: str, overrides: Iterable[str] = (), environ: Mapping[str, str] = os.environ
) -> tuple[list[str], dict[str, str]]:
    """The overrides and variables that name no dataset and no extractor which a benchmark file lacks.

    So one call can override values of several files, each in the file that has them.
    """
    tree = _read_yaml(find_file(source))

    def has(keys: list[str]) -> bool:
        section = tree.get(keys[0])
        return keys[0] not in ("datasets", "extractors") or (isinstance(section, dict) and keys[1] in section)

    variables = {
        name: value
        for name, value in environ.items()
        if not name.startswith(ENV_PREFIX) or has([*name.removeprefix(ENV_PREFIX).lower().split("__"), ""])
    }
    return [text for text in overrides if has([*text.partition("=")[0].split("."), ""])], variables


def _check_moved(file: Path, moved: Mapping[str, tuple[str, str]]) -> None:
    """Refuse paths that earlier releases found elsewhere: a second store must not appear unasked.

    Raises:
        ConfigError: there are some.
    """
    lines = [
        f"{key}: {begun} is not there, and {written} is, in the working directory, where earlier releases looked. "
        f"Write {Path(os.path.relpath(written, file.parent)).as_posix()} to go on with it, or make {begun} anew"
        for key, (written, begun) in moved.items()
    ]
    if lines:
        raise ConfigError(fault_list(str(file), [f"paths begin at the folder of the file; {line}" for line in lines]))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    tree = read_tree(decoded(data, str(path)), str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping with the keys datasets, extractors, ...")
    return tree


def _assign(tree: dict[str, Any], keys: list[str], text: str, origin: str) -> None:
    if len(keys) > MOST_DEPTH:
        raise ConfigError(f"{origin[:100]} ...: nested too deeply (at most {MOST_DEPTH} levels)")
    node = tree
    for key in keys[:-1]:
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            raise ConfigError(f"{origin}: {key!r} is a value, not a section")
    node[keys[-1]] = read_value(text, origin)


def materialize_command(
    dataset: str | None,
    config: str | Path | None = None,
    overrides: Iterable[str] = (),
    asset: str | None = None,
    categories: Iterable[str] = (),
) -> str:
    """The command line that makes the assets of a dataset, or one of them, what they should be.

    >>> print(materialize_command("parts", "my parts.yaml", asset="parts/leaderboard"))
    ad-assets materialize parts --config 'my parts.yaml' --select 'key:"parts/leaderboard"'
    """
    words = ["ad-assets", "materialize", *([dataset] if dataset else [])]
    words += ["--config", str(config)] if config else []
    words += [word for override in overrides for word in ("--set", override)]
    words += ["--select", f'key:"{asset}"'] if asset else []
    words += [word for category in categories for word in ("--category", category)]
    return shlex.join(words)
