"""Base of all models of the benchmark file, which refuses unknown keys and invalid numbers."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from typing import Any, ClassVar, get_args
from urllib.parse import SplitResult, parse_qsl, urlsplit

from annotated_types import Le, Lt
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

_SECRET = re.compile(
    r"secret|token|passw|passphrase|credential|signature|auth|cookie|headers|sas$|_sas|account_key|access_key|api_?key"
    r"|private|customer_?key|connection_string|session_id",
    re.IGNORECASE,
)


class Settings(BaseModel):
    """A frozen section: unknown keys, NaN and infinity, absurd numbers, and true for 1 are refused.

    Class attribute: `largest`, the limit of numbers whose field has none. The default is the largest that JSON keeps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    largest: ClassVar[float] = 2**53

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if any(isinstance(number, bool) for number in _numbers(value)) and not _takes_truth(annotation):
            raise ValueError("true and false are no numbers and no names (a name of this spelling: in quotes)")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _no_absurd_number(cls, value: Any, info: ValidationInfo) -> Any:
        own = any(isinstance(limit, Le | Lt) for limit in cls.model_fields[str(info.field_name)].metadata)
        if not own and any(abs(number) > cls.largest for number in _numbers(value)):
            raise ValueError(f"numbers go up to {cls.largest:,.0f} here")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_secret_in_a_place(cls, value: Any) -> Any:
        # In any field, since it is not known here which paths and URLs are displayed.
        for text in _texts(value):
            without_password(text)
        return value


def without_password(url: str) -> str:
    """The path or URL, unchanged.

    Raises:
        ValueError: it has a password, a token or a signature, which would be displayed with it.
    """
    try:
        # Chained ones, such as simplecache::https://..., are several.
        secret = any(_holds_secret(urlsplit(each)) for each in url.split("::") if "://" in each)
    except ValueError as error:
        raise ValueError(f"no valid URL: {error}") from error
    if secret:
        raise ValueError(
            "a URL with a password, token or signature in it is shown wherever this place is: leave it out, and keep "
            "it where the file system's own client looks for it, such as environment variables or ~/.netrc"
        )
    return url


def _holds_secret(url: SplitResult) -> bool:
    options = parse_qsl(url.query, keep_blank_values=True) + parse_qsl(url.fragment, keep_blank_values=True)
    return bool(url.password) or any(_is_secret(name) for name, _ in options)


def _is_secret(name: str) -> bool:
    return bool(_SECRET.search(name)) or name.lower() in ("key", "sig", "pwd")


def without_secrets(options: dict[str, Any]) -> dict[str, Any]:
    """Options of an fsspec file system as they are.

    Raises:
        ValueError: the name of one, at any depth, is that of a secret, or its value is a URL with a password.
    """
    for name, value in options.items():
        if _is_secret(str(name)):
            raise ValueError(
                f"{name} is a secret, and a benchmark file is read by many: leave it out, and keep secrets where the "
                "file system's own client looks for them, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
                "environment, ~/.aws/credentials (AWS_PROFILE), or the role of the machine"
            )
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, dict):
                without_secrets(each)
    return options


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _numbers(value: Any) -> Iterator[float]:
    """The numbers and truth values in a value of JSON."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _numbers(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(each)


def _takes_truth(annotation: Any) -> bool:
    """Whether a field may hold true or false."""
    if annotation in (bool, Any) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return True
    return any(_takes_truth(each) for each in get_args(annotation) if not isinstance(each, types.EllipsisType | str))
