"""Requests to storage: which are made again, how it is told, and what is never taken for an answer."""

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ad_assets.datasets import DatasetError, ImageFiles, build_index
from ad_assets.datasets.readers.folder import FolderReader
from ad_assets.store import retry as storage
from ad_assets.store.retry import StorageError, find_files, may_pass, retried
from ad_assets.store.store import ArtifactStore
from tests.support.bench_graph import write_dataset
from tests.support.flaky import PASSING


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.0)


def s3_error(code: str, status: int) -> Exception:
    """As s3fs raises what an S3 server answers."""
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    response: Any = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: Exception = translate_boto_error(ClientError(response, "GetObject"))
    return error


def test_what_may_pass() -> None:
    from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
    from fsspec.exceptions import FSTimeoutError

    for error in (
        *PASSING,
        FSTimeoutError(),
        EndpointConnectionError(endpoint_url="http://x"),
        ReadTimeoutError(endpoint_url="http://x"),
        s3_error("SlowDown", 503),
        s3_error("InternalError", 500),
        s3_error("ServiceUnavailable", 503),
        s3_error("RequestTimeout", 400),
        s3_error("TooManyRequests", 429),
        s3_error("504", 504),
    ):
        assert may_pass(error), repr(error)
    for error in (
        FileNotFoundError(errno.ENOENT, "No such file"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError(errno.ENAMETOOLONG, "File name too long"),
        IsADirectoryError(errno.EISDIR, "Is a directory"),
        ValueError("corrupt"),
        StorageError("tried often enough"),
        s3_error("NoSuchKey", 404),
        s3_error("AccessDenied", 403),
        s3_error("SignatureDoesNotMatch", 403),
        s3_error("NoSuchThingAsThis", 400),
    ):
        assert not may_pass(error), repr(error)


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[int]]:
    """A request that fails so often, and how often it was made."""
    calls: list[int] = []

    def request() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "answer"

    return request, calls


def test_a_request_is_made_again_and_each_time_is_told(caplog: pytest.LogCaptureFixture) -> None:
    request, calls = failing(storage.RETRIES, TimeoutError("too slow"))
    with caplog.at_level(logging.WARNING):
        assert retried(request, "s3://bucket/x") == "answer"
    assert len(calls) == storage.RETRIES + 1
    assert len(caplog.records) == storage.RETRIES
    assert caplog.records[0].getMessage() == (
        f"s3://bucket/x: TimeoutError: too slow; trying again in 0.0 s (1 of {storage.RETRIES})"
    )


def test_the_last_failure_names_the_place_and_what_to_do() -> None:
    request, calls = failing(99, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(StorageError, match=r"share/x: OSError: .*Input/output error, in each of 6 tries .*run again"):
        retried(request, "share/x")
    assert len(calls) == storage.RETRIES + 1


def test_what_does_not_pass_is_told_at_once() -> None:
    request, calls = failing(99, PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(PermissionError):
        retried(request, "x")
    assert len(calls) == 1


def test_a_request_that_failed_is_not_an_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(root=f"memory://{tmp_path.name}")
    store.write_bytes("a/x", b"1")
    fs = fsspec.filesystem("memory", use_listings_cache=False)

    def down(*args: object, **options: object) -> object:
        raise TimeoutError

    monkeypatch.setattr(fs, "info", down)
    with pytest.raises(StorageError, match="a/x: TimeoutError"):
        store.exists("a/x")


def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    fs = fsspec.filesystem("file")
    assert list(find_files(fs, str(tmp_path))) == [str(tmp_path / "a" / "x")]
    assert find_files(fs, str(tmp_path / "none")) == {}
    listed = fs.ls

    def down(path: str, **options: Any) -> Any:
        if str(path).endswith("/a"):
            raise OSError(errno.EIO, "Input/output error")
        return listed(path, **options)

    monkeypatch.setattr(fs, "ls", down)
    with pytest.raises(OSError, match="Input/output error"):
        find_files(fs, str(tmp_path))


def test_an_image_out_of_reach_is_no_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path, ("bolt",))
    reader = FolderReader(root=str(tmp_path), on_problem="skip")
    read = ImageFiles.read

    def one_fails(error: Exception) -> None:
        def fails(self: ImageFiles, path: str) -> bytes:
            if path.endswith("train/good/003.png"):
                raise error
            return read(self, path)

        monkeypatch.setattr(ImageFiles, "read", fails)

    one_fails(PermissionError(errno.EACCES, "Permission denied"))
    assert [problem.path for problem in build_index(reader, "bolt").problems] == ["bolt/train/good/003.png"]
    one_fails(StorageError("the share does not answer"))
    with pytest.raises(StorageError, match="does not answer") as raised:
        build_index(reader, "bolt")
    assert not isinstance(raised.value, DatasetError)
