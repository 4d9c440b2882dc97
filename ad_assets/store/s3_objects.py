"""Objects on S3 in one request each, and listings in one a thousand of them.

s3fs asks for the size of an object before it reads it: twice the requests, and an object replaced in between would be
cut off. Here the first request asks for the first bytes, and its answer says how many there are; what is longer is read
on in parts at once, on condition that it is still the same object. Where nothing lies below a folder, s3fs asks whether
it is a file, and once more what lies below.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from fsspec.asyn import sync

PART = 50 << 20  # bytes a request: one of this size keeps a connection busy for a second
MOST_READS = 5  # while other processes keep replacing the object
_CHANGED, _EMPTY = 412, 416  # status of a part of an object that was replaced, and of one that has no bytes


def is_s3(fs: Any) -> bool:
    """Whether a file system is that of s3fs."""
    return "s3" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def read_whole(fs: Any, path: str) -> tuple[bytes, str]:
    """The bytes of a file on any fsspec file system, and on S3 its ETag; there in one request if shorter than `PART`.

    Raises:
        FileNotFoundError: there is none.
    """
    return read_object(fs, path) if is_s3(fs) else (bytes(fs.cat_file(path)), "")


def read_object(fs: Any, path: str) -> tuple[bytes, str]:
    """The bytes of an object on S3, and its ETag.

    Raises:
        FileNotFoundError: there is none.
    """
    content: tuple[bytes, str] = sync(fs.loop, _read, fs, path)
    return content


def is_object(fs: Any, path: str) -> bool:
    """Whether there is an object of this name, from one request: s3fs looks for a folder too where there is none."""
    bucket, key, _ = fs.split_path(path)
    try:
        sync(fs.loop, partial(fs._call_s3, "head_object", Bucket=bucket, Key=key))
    except FileNotFoundError:
        return False
    return True


def list_objects(fs: Any, folder: str) -> dict[str, dict[str, Any]]:
    """Path -> ``name``, ``type``, ``size``, ``ETag`` and ``LastModified`` of objects below a folder, or of one.

    Raises:
        FileNotFoundError: there is no such bucket.
    """
    found, _ = sync(fs.loop, _list, fs, folder)
    return dict(found)


def list_few_objects(fs: Any, folder: str) -> dict[str, dict[str, Any]] | None:
    """As `list_objects`, by one request; None if there are more than one answers, a thousand."""
    found, complete = sync(fs.loop, _list, fs, folder, 1)
    return dict(found) if complete else None


async def _list(fs: Any, folder: str, most_pages: int = 1 << 30) -> tuple[dict[str, dict[str, Any]], bool]:
    """The objects, and whether these are all."""
    bucket, key, _ = fs.split_path(folder)
    key = key.rstrip("/")
    asked = {"Bucket": bucket, "Prefix": key}  # without a slash: it may be a file
    found: dict[str, dict[str, Any]] = {}
    for number in range(most_pages):
        page = await fs._call_s3("list_objects_v2", **asked)
        for entry in page.get("Contents", ()):
            # What ends in a slash is an empty object that stands for a folder.
            if not entry["Key"].endswith("/") and (not key or f"{entry['Key']}/".startswith(f"{key}/")):
                name = f"{bucket}/{entry['Key']}"
                told = {each: entry[each] for each in ("ETag", "LastModified")}
                found[name] = {"name": name, "type": "file", "size": entry["Size"], **told}
        if not page.get("IsTruncated"):
            return found, True
        if number == 0 and key:  # what else begins so may be any number: from here on, what lies below alone
            asked["Prefix"] = f"{key}/"
        else:
            asked["ContinuationToken"] = page["NextContinuationToken"]
    return found, False


async def _read(fs: Any, path: str) -> tuple[bytes, str]:
    bucket, key, _ = fs.split_path(path)
    where = {"Bucket": bucket, "Key": key}
    for number in range(MOST_READS):
        try:
            answer, data = await _get(fs, where, 0)
            total = int(answer.get("ContentRange", f"/{len(data)}").rpartition("/")[2])
            if len(data) >= total:
                return data, answer["ETag"]
            same = {**where, "IfMatch": answer["ETag"]}
            rest = await asyncio.gather(*(_get(fs, same, start) for start in range(PART, total, PART)))
            return b"".join((data, *(part for _, part in rest))), answer["ETag"]
        except OSError as error:
            status = _status(error)
            if status == _EMPTY:
                answer = await fs._call_s3("get_object", **where)
                async with answer["Body"] as body:
                    return await body.read(), answer["ETag"]
            if status != _CHANGED or number == MOST_READS - 1:
                raise
    raise AssertionError  # the last try returns or raises


async def _get(fs: Any, where: dict[str, str], start: int) -> tuple[dict[str, Any], bytes]:
    """Answer and bytes of one part of an object."""
    answer = await fs._call_s3("get_object", **where, Range=f"bytes={start}-{start + PART - 1}")
    async with answer["Body"] as body:
        return answer, await body.read()


def _status(error: OSError) -> int | None:
    response = getattr(error.__cause__, "response", None) or {}
    status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status
