"""Which GPU a process computes on: one that no other process of this machine computes on, where there is one.

A process takes a slot of a GPU, a locked file, and keeps it. The system gives locks back when a process ends, however
that happens. The GPU with the fewest slots taken comes first: with more processes than GPUs the least loaded is shared.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from filelock import FileLock, Timeout

FOLDER_VARIABLE = "AD_ASSETS_GPU_LEASES"
SLOTS = 64  # of a GPU: as many processes share it at most
LOOK_SECONDS = 0.2  # for which another process that looks may have a lock in its hands
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Card:
    """A GPU that this process sees.

    Args:
        number: of torch: by `CUDA_VISIBLE_DEVICES` the same GPU has other numbers in other processes.
        identity: the same in all processes.
        name: of its model.
    """

    number: int
    identity: str
    name: str


@dataclass(frozen=True)
class Lease:
    """A slot of a GPU. Its lock is held until the process ends.

    Args:
        card: the GPU.
        path: the locked file.
        lock: of the file.
        process: which holds it.
        others: how many processes had a slot of the GPU when this one took its own.
    """

    card: Card
    path: Path
    lock: FileLock
    process: int
    others: int

    def __str__(self) -> str:
        shared = f", shared with {self.others} other process{'es' * (self.others > 1)}" if self.others else ""
        return f"cuda:{self.card.number} ({self.card.name}, {self.card.identity}){shared}"


_held: list[Lease] = []  # the last is this process's, if it says so: a fork has those of its parent
_taking = Lock()


def lease_folder() -> Path:
    """Where the locks lie, for all processes of a user on this machine; `AD_ASSETS_GPU_LEASES` names another place."""
    named = os.environ.get(FOLDER_VARIABLE)
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    return Path(named) if named else Path(tempfile.gettempdir()) / f"ad_assets_gpus_{user}"


def visible_cards() -> list[Card]:
    """The GPUs that torch sees."""
    import torch

    return [_card(number) for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]


def _card(number: int) -> Card:
    import torch

    try:
        facts = torch.cuda.get_device_properties(number)
        return Card(number, str(getattr(facts, "uuid", number)), facts.name)
    except (RuntimeError, AssertionError):  # an old driver
        return Card(number, str(number), "GPU")


def current_lease() -> Lease | None:
    """What this process holds."""
    return _held[-1] if _held and _held[-1].process == os.getpid() else None


def lease(cards: Sequence[Card]) -> Lease | None:
    """This process's GPU among some; None: the folder of locks cannot be written, or all slots are taken.

    What it holds stays if it is among them. Else the GPU with the fewest other processes is taken, of those the one
    with most free memory, which other programs may use.
    """
    with _taking:
        mine = current_lease()
        if mine and mine.card in cards:
            return mine
        try:
            found = _take(cards, _own_folder())
        except OSError as error:
            _LOG.warning("no GPU can be leased, so others may compute on the same one: %s", error)
            return None
        if found is None:
            return None
        if mine:
            mine.lock.release()
        _held.append(found)
    # On a single GPU runs take turns, by the pool. Of several each could have its own.
    level = logging.WARNING if found.others and len(cards) > 1 else logging.INFO
    told = ": more processes compute than there are GPUs; lower max_concurrent_runs" if level > logging.INFO else ""
    _LOG.log(level, "computes on %s%s", found, told)
    return found


def _own_folder() -> Path:
    folder = lease_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if FOLDER_VARIABLE not in os.environ and hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; name a folder of your own in {FOLDER_VARIABLE}")
    return folder


def _take(cards: Sequence[Card], folder: Path) -> Lease | None:
    free = free_bytes() if len(cards) > 1 else {}
    order = sorted(cards, key=lambda card: (len(holders(card)), -free.get(card.identity, 0)))
    for slot in range(SLOTS):
        # Again after a moment: who looks which slots are taken has each in its hands for an instant.
        for pause in (0, LOOK_SECONDS) if slot == 0 else (0,):
            time.sleep(pause)
            for card in order:
                path = _path(folder, card, slot)
                lock = FileLock(path, timeout=0, thread_local=False)
                try:
                    lock.acquire()
                except Timeout:
                    continue
                path.with_suffix(".pid").write_text(str(os.getpid()))
                return Lease(card, path, lock, os.getpid(), len(_taken(card, path)))
    return None


def holders(card: Card) -> list[int]:
    """The processes that have a slot of a GPU, this one among them; 0 where one does not say its number."""
    mine = current_lease()
    if mine and mine.card == card:
        return sorted([mine.process, *_taken(card, mine.path)])
    return _taken(card, None)


def _taken(card: Card, own: Path | None) -> list[int]:
    """The processes of the slots that are taken, but for this process's own."""
    found = []
    for path in sorted(lease_folder().glob(f"{_safe(card.identity)}.*.lock")):
        if path == own:
            continue
        try:
            with FileLock(path, timeout=0, thread_local=False):
                continue
        except Timeout:
            number = path.with_suffix(".pid")
            found.append(int(number.read_text() or 0) if number.exists() else 0)
        except OSError:
            continue
    return found


def _path(folder: Path, card: Card, slot: int) -> Path:
    return folder / f"{_safe(card.identity)}.{slot}.lock"


def _safe(identity: str) -> str:
    return re.sub(r"[^\w-]", "_", identity)


def free_bytes() -> dict[str, int]:
    """Free memory by a GPU's identity, asked of the driver: torch would open each GPU, which takes memory of all.

    GPUs that share the machine's memory have none of their own, and the driver gives no number.
    """
    answers = ask_driver("uuid", "memory.free")
    known = [each for each in answers if each["memory.free"].isdigit()]
    return {each["uuid"].removeprefix("GPU-"): int(each["memory.free"]) << 20 for each in known}


def ask_driver(*facts: str) -> list[dict[str, str]]:
    """Facts of all GPUs of this machine as `nvidia-smi` calls and writes them; none where it does not answer."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, f"--query-gpu={','.join(facts)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[field.strip() for field in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
    return [dict(zip(facts, row, strict=True)) for row in rows if len(row) == len(facts)]
