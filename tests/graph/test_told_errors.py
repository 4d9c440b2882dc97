"""An error that went to another process as text means there what it meant here."""

import errno
import json
from http.client import IncompleteRead

import pytest

from ad_assets.datasets.files import ChangedFileError
from ad_assets.graph.build_attempts import is_temporary
from ad_assets.graph.out_of_memory import is_out_of_memory
from ad_assets.graph.stage import StageError
from ad_assets.graph.stages.told_errors import read_error, told_error
from ad_assets.store.local import NoSpaceError
from ad_assets_runtime.images import ImageError


class OutOfMemoryError(RuntimeError):
    """As PyTorch's."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ChangedFileError("bolt/003.png", "changed since it was indexed"), ChangedFileError),
        (ImageError("bolt/003.png", "is no image"), ImageError),
        (StageError("write device: cpu"), StageError),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), RuntimeError),
        (MemoryError("64 MB"), MemoryError),
        (NoSpaceError(errno.ENOSPC, "the disk is full"), NoSpaceError),
        (OSError(errno.ECONNRESET, "reset by peer"), OSError),
        (IncompleteRead(b"half"), OSError),
        (PermissionError(errno.EACCES, "denied", "/images"), OSError),
        (KeyError("layer"), RuntimeError),
    ],
)
def test_an_error_means_the_same_where_it_arrives(error: Exception, kind: type[Exception]) -> None:
    arrived = read_error(told_error(_raised(error)))
    assert isinstance(arrived, kind)
    assert str(error) in str(arrived)
    assert is_temporary(arrived) == is_temporary(error)
    assert is_out_of_memory(arrived) == is_out_of_memory(error)
    assert isinstance(arrived, StageError) == isinstance(error, StageError)
    assert "in _raised\n" in arrived.__notes__[0]


def test_a_class_that_is_not_known_is_not_looked_for() -> None:
    told = json.loads(told_error(ValueError("no such layer")))
    arrived = read_error(json.dumps({**told, "kind": "os.system"}))
    assert type(arrived) is RuntimeError
    assert str(arrived) == "ValueError: no such layer"


def _raised(error: Exception) -> Exception:
    with pytest.raises(type(error)) as raised:
        raise error
    return raised.value
