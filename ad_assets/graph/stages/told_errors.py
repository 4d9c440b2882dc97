"""Errors that go from process to process as text: what they are called, what they say, and where they were raised.

An object would have to be unpickled where it arrives. Of the classes that a run tells apart an error comes back as one;
of any other it is a `RuntimeError` that names it.
"""

from __future__ import annotations

import json
import socket
import traceback

from ad_assets.backbones.engines import EngineError
from ad_assets.backbones.weights import MissingWeights
from ad_assets.datasets.files import ChangedFileError
from ad_assets.graph.out_of_memory import NoMemoryError
from ad_assets.graph.stage import StageError
from ad_assets.kernels.budget import BudgetError
from ad_assets.store.checksums import CorruptArtifactError
from ad_assets.store.local import NoSpaceError
from ad_assets.store.retry import StorageError, may_pass
from ad_assets_runtime.images import ImageError

# The first that an error is an instance of: what is more special comes before.
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        ChangedFileError,
        ImageError,
        NoMemoryError,
        StageError,
        MissingWeights,
        EngineError,
        BudgetError,
        CorruptArtifactError,
        StorageError,
        NoSpaceError,
        MemoryError,
        OSError,
    )
}


def told_error(error: Exception) -> str:
    """An error in words, as JSON."""
    kind = next((name for name, known in _KINDS.items() if isinstance(error, known)), "")
    said = [str(error)]
    if isinstance(error, ImageError):
        said = [error.path, error.message]
    elif not kind and may_pass(error):  # of a library of some storage, which the other process may not know
        kind = StorageError.__name__
    elif not kind:
        said = [f"{type(error).__name__}: {error}"]
    number = error.errno if isinstance(error, OSError) else None
    where = f"On {socket.gethostname()}:\n{''.join(traceback.format_exception(error))}"
    return json.dumps({"kind": kind, "said": said, "errno": number, "where": where})


def read_error(told: str) -> Exception:
    """The error that `told_error` put in words; a note of it says where it was raised."""
    read = json.loads(told)
    error = _KINDS.get(read["kind"], RuntimeError)(*map(str, read["said"]))
    if isinstance(error, OSError) and read["errno"] is not None:
        error.errno = int(read["errno"])
    error.add_note(str(read["where"]))
    return error
