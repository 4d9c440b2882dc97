"""Requests to disks, network shares and object stores: tried again when they fail for a reason that may pass.

A time-out, a lost connection, a server that is busy: these pass. A missing file, a permission, a full disk or a damaged
file do not, and are raised at once. Only requests that may be made twice belong here: reads, listings, writes of whole
files, and deletions of what may be absent already.
"""

from __future__ import annotations

import errno
import http.client
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem
from tenacity import Future, RetryError, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from ad_assets.store.s3_objects import is_s3, list_objects

T = TypeVar("T")

RETRIES = 5
FIRST_PAUSE = 0.2  # seconds, then twice as long each time: 6 s in all, what passes later is for the asset to repeat
_LOG = logging.getLogger(__name__)

# s3fs says EBUSY for SlowDown and 503, EREMOTEIO for 500; network shares say the others.
_ERRNOS = {
    getattr(errno, name)
    for name in (
        *("EIO", "ETIMEDOUT", "ESTALE", "EAGAIN", "EBUSY", "EREMOTEIO", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ENOBUFS", "ESHUTDOWN"),
    )
    if hasattr(errno, name)
}
_STATUSES = {408, 425, 429, 500, 502, 503, 504}
# Of botocore and aiohttp, which are there only with the extra s3 and derive from neither OSError.
_NAMES = {"HTTPClientError", "ConnectionError", "ClientConnectionError", "ClientPayloadError", "ResponseParserError"}


class StorageError(OSError):
    """Storage did not answer in several tries; the message names the file or URL and the remedy."""


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, TimeoutError | ConnectionError | http.client.IncompleteRead):
        return True
    status = _status(error) or _status(error.__cause__)
    number = getattr(error, "errno", None)
    if number == errno.EIO and status:  # s3fs says EIO for every answer that it does not know
        return status in _STATUSES
    return number in _ERRNOS or status in _STATUSES or any(kind.__name__ in _NAMES for kind in type(error).__mro__)


def _status(error: BaseException | None) -> int | None:
    """The HTTP status of an error of botocore, aiohttp, gcsfs or adlfs."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    statuses = (response, *(getattr(error, name, None) for name in ("status", "status_code", "code")))
    return next((value for value in statuses if isinstance(value, int)), None)


def retried(request: Callable[[], T], place: str, also: tuple[type[Exception], ...] = ()) -> T:
    """The answer to a request; it is made again, after growing pauses, while it fails for a reason that may pass.

    Args:
        request: may be made any number of times.
        place: file, folder or URL that it is about, for people.
        also: other errors that may pass here.

    Raises:
        StorageError: the last try failed for such a reason too.
        Exception: whatever else the request raises, at once.
    """
    try:
        return request()  # nearly always; the machinery below takes longer than to read a small file
    except Exception as error:
        if not (may_pass(error) or isinstance(error, also)):
            raise
        failed = [error]

    def again() -> T:
        if failed:
            raise failed.pop()
        return request()

    retrying = Retrying(
        retry=retry_if_exception(lambda error: may_pass(error) or isinstance(error, also)),
        stop=stop_after_attempt(RETRIES + 1),
        wait=wait_exponential_jitter(
            multiplier=FIRST_PAUSE, jitter=FIRST_PAUSE
        ),  # who failed together comes back apart
        before_sleep=lambda state: _LOG.warning(
            "%s: %s; trying again in %.1f s (%d of %d)",
            *(place, _cause(state.outcome), state.upcoming_sleep, state.attempt_number, RETRIES),
        ),
    )
    try:
        return retrying(again)
    except RetryError as error:
        seconds = retrying.statistics["delay_since_first_attempt"]
        raise StorageError(
            f"{place}: {_cause(error.last_attempt)}, in each of {RETRIES + 1} tries within {seconds:.0f} s. See "
            "that the disk, share or server is there and answers, then run again: what is finished is kept"
        ) from error.last_attempt.exception()


def _cause(attempt: Future | None) -> str:
    error = attempt.exception() if attempt else None
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def find_files(fs: AbstractFileSystem, folder: str) -> dict[str, dict[str, Any]]:
    """Path -> info of every file below a folder, empty if there is none; what cannot be listed is an error.

    fsspec's own walk takes a folder that cannot be listed for an empty one: images would vanish from a data set, and
    what only a file in it refers to would be collected.
    """
    if is_s3(fs):
        try:
            return list_objects(fs, folder)
        except FileNotFoundError:  # no such bucket
            return {}
    if getattr(type(fs), "_find", None) is AsyncFileSystem._find or type(fs).find is AbstractFileSystem.find:
        return dict(_walk(fs, folder))
    try:
        found: dict[str, dict[str, Any]] = fs.find(folder, detail=True)  # an object store's: one listing for all
    except FileNotFoundError:  # no such bucket
        return {}
    return found


def _walk(fs: AbstractFileSystem, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        # Folder by folder: a walk over thousands would hardly get through in one go.
        entries = retried(lambda: fs.ls(folder, detail=True), folder)
    except FileNotFoundError:  # never there, or removed since the folder above was listed
        return
    for info in entries:
        name = info["name"].rstrip("/")
        if info["type"] == "directory":
            if name != folder:
                yield from _walk(fs, name)
        else:
            yield name, info
