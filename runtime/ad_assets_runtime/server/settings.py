"""What a server is started with."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

TOKEN = "AD_ASSETS_LINE_TOKEN"  # noqa: S105 - the name of the variable


class ServerError(ValueError):
    """A server cannot be started as it was asked for; the message says why, and what to do."""


@dataclass(frozen=True)
class ServerSettings:
    """What a server is started with.

    Args:
        home: folder of its own: cache of bundles, inspections on their way, recent images.
        host: address that it listens on.
        port: likewise.
        token: that requests must bear; empty: none is asked for.
        names: further names of the host by which it may be addressed.
        workers: images that are scored at once.
        most_waiting: requests beyond these are answered 429.
        most_bytes: of one request.
        body_seconds: within which a request must be there.
        kept_gb: of recent images.
        poll_seconds: between two looks at the champions.
        outbox: folder or ``s3://`` prefix that inspections and feedback are sent to; empty: they stay in `home`.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = 8350
    token: str = ""
    names: tuple[str, ...] = ()
    workers: int = 1
    most_waiting: int = 32
    most_bytes: int = 64_000_000
    body_seconds: float = 30.0
    kept_gb: float = 2.0
    poll_seconds: float = 2.0
    outbox: str = ""

    def check(self) -> None:
        """Refuse what would let strangers in.

        Raises:
            ServerError: it listens beyond this computer without a token.
        """
        if not self.token and not is_loopback(self.host):
            raise ServerError(
                f"{self.host} can be reached from other computers: set a token in the variable {TOKEN}, or listen on "
                "127.0.0.1"
            )


def token_from_environment() -> str:
    """The token, without blanks around it."""
    return os.environ.get(TOKEN, "").strip()


def is_loopback(host: str) -> bool:
    """Whether an address is of this computer alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
