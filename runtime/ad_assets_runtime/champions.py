"""Follows champions: a folder or ``s3://`` prefix in which the project points to the bundle of each champion.

A pointer ``champion_bundles/<dataset>/<lane>/<category>.json`` is written last, when the whole bundle is there. The
bundle is copied into a cache, checked, and must pass its self-test here, while the one before it answers. Only then it
takes over. A rollback is a pointer to an earlier bundle, which the cache still has. Where the root cannot be reached,
the champions of the cache serve, also after a restart.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

from ad_assets_runtime.bundle import Bundle, load_bundle
from ad_assets_runtime.bundle_files import FORMAT, MANIFEST, BundleError, parse_manifest
from ad_assets_runtime.engines import EngineName
from ad_assets_runtime.root_folder import RootFolder, open_root, write_whole
from ad_assets_runtime.words import short

POINTERS = "champion_bundles"
Place = tuple[str, str, str]  # dataset, lane, category
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0  # seconds until a refused bundle is tried again, as while it is being copied
_KEPT = 3  # bundles of a category in the cache, for rollbacks
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A champion that answers.

    Args:
        bundle: its bundle.
        taken: when it began to answer here (ISO 8601).
    """

    bundle: Bundle
    taken: str


@dataclass(frozen=True)
class Refusal:
    """A bundle that was promoted and is not served: sha256 of its ``bundle.json``, why, and when (ISO 8601)."""

    bundle: str
    reason: str
    when: str


@dataclass
class _Tried:
    """A pointer that led to no bundle, and when it is tried again."""

    text: bytes
    pause: float
    after: float = 0.0


class ServedChampions:
    """What answers on this computer.

    Attributes:
        served: place -> its champion; replaced as a whole when one changes.
        refused: place -> the promoted bundle that is not served.
        fault: why new champions cannot be looked for; empty: they can.
    """

    def __init__(self) -> None:
        self.served: Mapping[Place, Served] = {}
        self.refused: Mapping[Place, Refusal] = {}
        self.fault = ""

    def of(self, dataset: str, category: str, lane: str | None = None) -> Served:
        """The champion of a category.

        Raises:
            KeyError: there is none, or several lanes have one and none is named; the message says which.
        """
        found = [s for p, s in self.served.items() if (p[0], p[2]) == (dataset, category) and lane in (None, p[1])]
        if len(found) == 1:
            return found[0]
        if not found:
            raise KeyError(f"no champion of {dataset} [{category}] is served here")
        lanes = sorted(served.bundle.place[1] for served in found)
        raise KeyError(f"lanes {', '.join(lanes)}: name one, as in ?lane={lanes[0]}")

    def poll(self) -> None:
        """Look once for what has been promoted."""
        raise NotImplementedError


class Champions(ServedChampions):
    """The champions of a root, each the newest that passed its self-test on this machine.

    Args:
        root: folder or ``s3://`` prefix that has `POINTERS`, or what reads its files.
        cache: folder for copies of bundles.
        engine: what runs their graphs.
        threads: of one image; None: as many as the engine takes.
    """

    def __init__(
        self,
        root: str | Path | RootFolder,
        cache: Path,
        *,
        engine: EngineName = "onnxruntime",
        threads: int | None = None,
    ) -> None:
        super().__init__()
        self._root = open_root(root) if isinstance(root, (str, Path)) else root
        self._cache = _Cache(cache)
        self._engine: EngineName = engine
        self._threads = threads
        self._stamps: dict[str, str] = {}
        self._tried: dict[Place, _Tried] = {}

    def poll(self) -> None:
        """Look at the root once, and take what has been promoted; whatever is wrong with it, what is served goes on."""
        try:
            found = self._root.list(POINTERS)
            self.fault = ""
        except Exception as error:  # noqa: BLE001 - object stores raise what they like; the line goes on
            self._note_fault(f"{self._root.name} cannot be read: {short(error)}")
            self._take_cached()
            return
        for path, stamp in sorted(found.items()):
            place = _place(path)
            if place is None:
                continue
            tried = self._tried.get(place)
            if self._stamps.get(path) == stamp and (tried is None or time.monotonic() < tried.after):
                continue
            try:
                text = self._root.read(path)
            except Exception as error:  # noqa: BLE001 - as above
                self._note_fault(f"{path} cannot be read: {short(error)}")
                continue
            self._stamps[path] = stamp
            self._take(place, text)
        self._take_cached()

    def _take(self, place: Place, text: bytes) -> None:
        """Serve what a pointer names, or say why not."""
        try:
            pointer = _parsed(text)
            served = self.served.get(place)
            if served is None or served.bundle.identity != pointer["sha256"]:
                self._serve(place, pointer, self._read_of(pointer))
            self._tried.pop(place, None)
            self.refused = {each: why for each, why in self.refused.items() if each != place}
        except BundleError as error:
            self._refuse(place, text, str(error))

    def _serve(self, place: Place, pointer: Mapping[str, Any], read: Callable[[str], bytes]) -> None:
        started = time.perf_counter()
        champion = {name: str(pointer.get(name, "")) for name in ("state", "since", "reason")}
        bundle = load_bundle(read, engine=self._engine, threads=self._threads, champion=champion)
        if bundle.place != place or bundle.identity != pointer["sha256"]:
            raise BundleError(f"it is a bundle of {'/'.join(bundle.place)}, or another one than was promoted")
        served = Served(bundle, _now())
        self.served = {**self.served, place: served}
        self._cache.remember(place, pointer)
        _LOG.info(
            "%s: serves bundle %s after %.2f s", "/".join(place), bundle.identity[:16], time.perf_counter() - started
        )

    def _refuse(self, place: Place, text: bytes, reason: str) -> None:
        tried = self._tried.get(place)
        if tried is None or tried.text != text:
            tried = self._tried[place] = _Tried(text, _FIRST_PAUSE)
        tried.after = time.monotonic() + tried.pause
        tried.pause = min(2 * tried.pause, _LONGEST_PAUSE)
        known = self.refused.get(place)
        if known is None or known.reason != reason:
            goes_on = "the one before it goes on" if place in self.served else "nothing is served"
            _LOG.warning("%s: a promoted bundle is refused, %s: %s", "/".join(place), goes_on, reason)
        try:
            sha256 = str(json.loads(text)["sha256"])
        except (ValueError, KeyError, TypeError):
            sha256 = ""
        self.refused = {**self.refused, place: Refusal(sha256, reason, _now())}

    def _take_cached(self) -> None:
        """Serve the last champions of the cache where nothing is served yet."""
        for place, pointer in self._cache.last().items():
            if place in self.served:
                continue
            try:
                self._serve(place, pointer, self._cache.reader(pointer, self._missing))
            except BundleError as error:
                _LOG.warning("%s: the copy of its last champion cannot be used: %s", "/".join(place), error)
                self._cache.forget(place)

    @staticmethod
    def _missing(path: str) -> bytes:
        raise FileNotFoundError(path)

    def _read_of(self, pointer: Mapping[str, Any]) -> Callable[[str], bytes]:
        folder, shared = pointer["bundle"], pointer.get("shared", {})

        def fetch(path: str) -> bytes:
            try:
                return self._root.read(shared.get(path) or f"{folder}/{path}")
            except OSError:
                raise
            except Exception as error:  # as above
                raise OSError(short(error)) from error

        return self._cache.reader(pointer, fetch)

    def _note_fault(self, fault: str) -> None:
        if fault != self.fault:
            _LOG.warning("%s; what is served goes on", fault)
        self.fault = fault


class OneBundle(ServedChampions):
    """A bundle that is served as it is; none follows it."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.served = {bundle.place: Served(bundle, _now())}

    def poll(self) -> None:
        """Nothing follows."""


class Follower(Thread):
    """Polls champions every so many seconds, until it is stopped."""

    def __init__(self, champions: ServedChampions, seconds: float = 2.0) -> None:
        super().__init__(name="champions", daemon=True)
        self._champions, self._seconds, self._stopped = champions, seconds, Event()

    def run(self) -> None:
        """Poll."""
        while not self._stopped.wait(self._seconds):
            try:
                self._champions.poll()
            except Exception:  # noqa: BLE001 - the thread must go on, whatever a pointer holds
                _LOG.exception("champions could not be looked for")

    def stop(self) -> None:
        """End it; what is under way is finished."""
        self._stopped.set()
        self.join(timeout=30)


class _Cache:
    """Copies of the files of bundles by their sha256, and the last pointers of each category."""

    def __init__(self, folder: Path) -> None:
        self._files, self._pointers = folder / "files", folder / POINTERS

    def reader(self, pointer: Mapping[str, Any], fetch: Callable[[str], bytes]) -> Callable[[str], bytes]:
        """Reads the files of a bundle from the cache, else by `fetch`, and then keeps a copy."""
        hashes = {MANIFEST: str(pointer["sha256"])}

        def read(path: str) -> bytes:
            data = self._cached(hashes.get(path, ""))
            if data is None:
                data = fetch(path)
                sha256 = hashlib.sha256(data).hexdigest()
                if path == MANIFEST and sha256 != hashes[MANIFEST]:
                    raise BundleError(
                        f"{MANIFEST} is not the one that was promoted: it is being copied, or was changed"
                    )
                if hashes.get(path) == sha256:
                    write_whole(self._files / sha256, data)
            if path == MANIFEST:
                with suppress(KeyError, TypeError, AttributeError):  # which whoever loads it reports
                    listed = parse_manifest(data)["files"]
                    hashes.update({name: str(known["sha256"]) for name, known in listed.items()})
            return data

        return read

    def _cached(self, sha256: str) -> bytes | None:
        if not sha256.isalnum():
            return None
        try:
            data = (self._files / sha256).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == sha256 else None

    def remember(self, place: Place, pointer: Mapping[str, Any]) -> None:
        """Note what is served, and let go what neither it nor the few before it need."""
        earlier = [each for each in self._read(self._path(place)) if each.get("sha256") != pointer["sha256"]]
        write_whole(self._path(place), json.dumps([pointer, *earlier][:_KEPT]).encode())
        needed = set()
        for path in self._pointers.rglob("*.json"):
            for each in self._read(path):
                manifest = self._cached(str(each["sha256"]))
                needed.add(each["sha256"])
                if manifest is not None:
                    needed |= {known["sha256"] for known in json.loads(manifest)["files"].values()}
        for file in self._files.iterdir():
            if file.name not in needed and not file.name.startswith("."):
                file.unlink(missing_ok=True)

    def last(self) -> dict[Place, Mapping[str, Any]]:
        """Place -> the pointer that was served last."""
        found: dict[Place, Mapping[str, Any]] = {}
        for path in sorted(self._pointers.rglob("*.json")):
            place, pointers = _place(f"{POINTERS}/{path.relative_to(self._pointers).as_posix()}"), self._read(path)
            if place and pointers:
                found[place] = pointers[0]
        return found

    def forget(self, place: Place) -> None:
        """Note that nothing is served."""
        self._path(place).unlink(missing_ok=True)

    def _path(self, place: Place) -> Path:
        return self._pointers.joinpath(*place[:2], f"{place[2]}.json")

    @staticmethod
    def _read(path: Path) -> list[dict[str, Any]]:
        try:
            return list(json.loads(path.read_bytes()))
        except (OSError, ValueError):
            return []


def _parsed(text: bytes) -> dict[str, Any]:
    """A pointer.

    Raises:
        BundleError: it is none, or names files outside of its root.
    """
    try:
        pointer = json.loads(text)
        paths = [pointer["bundle"], *pointer.get("shared", {}).values()]
        known = (
            pointer["format"] == FORMAT
            and isinstance(pointer["sha256"], str)
            and all(isinstance(p, str) for p in paths)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        known, paths = False, []
    if not known:
        raise BundleError(
            "its pointer is no JSON of a known format: it is being written, or was made by another release"
        )
    if any(path.startswith("/") or ".." in path.split("/") or "\\" in path for path in paths):
        raise BundleError("its pointer names files outside of its root")
    return dict(pointer)


def _place(path: str) -> Place | None:
    parts = path.removesuffix(".json").split("/")
    hidden = any(part.startswith(".") for part in parts)
    return (parts[1], parts[2], parts[3]) if len(parts) == 4 and path.endswith(".json") and not hidden else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
