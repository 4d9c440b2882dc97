"""Who may ask what: a bearer token, names of this host, pages of this server alone; and bodies within bounds."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ad_assets_runtime.server.scoring import BusyError
from ad_assets_runtime.server.settings import ServerSettings

# What tells nothing of the line: the page itself, its description, whether the server lives.
_OPEN = ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")
_BODIES = 4  # times the largest body may be held at once
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """Refuses requests without the token, from pages of others, and by other names of this host.

    A page of somebody else that an operator has open could otherwise give feedback in his name, or read predictions
    under a name of its own that resolves to this computer.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app, self._token = app, settings.token
        self._names = {*_LOCAL, settings.host.lower(), *(name.lower() for name in settings.names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        if refusal:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, request: Request) -> JSONResponse | None:
        name = request.headers.get("host", "").lower()
        name = name.rpartition(":")[0] if not name.endswith("]") and ":" in name else name
        if not self._token and name not in self._names:
            return problem(403, f"this server is not known as {name[:100]!r}: start it with --name, or set a token")
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return problem(403, "asked by a page of another site")
        if not self._token or request.url.path in _OPEN:
            return None
        given = request.headers.get("authorization", "")
        if hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            return None
        return problem(401, "a token is needed: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"})


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as JSON, in the form of the Open Inference Protocol."""
    return JSONResponse({"error": message}, status, headers=headers)


class Bodies:
    """Reads the bodies of requests; all that are held at once are bounded too.

    Args:
        settings: have the bounds.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings, self._held = settings, 0

    @asynccontextmanager
    async def of(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, which counts as held for the block.

        Raises:
            HTTPException: 413: it is too large; 408: it does not arrive in time; 400: it is cut short.
            BusyError: too much is held.
        """
        limit, body = self._settings.most_bytes, bytearray()
        declared = request.headers.get("content-length", "")
        try:
            if declared.isdecimal() and int(declared) > limit:
                raise self._too_large()
            async with asyncio.timeout(self._settings.body_seconds):
                async for part in request.stream():
                    body += part
                    self._held += len(part)
                    if len(body) > limit:
                        raise self._too_large()
                    if self._held > _BODIES * limit:
                        raise BusyError(1)
            yield bytes(body)
        except TimeoutError:
            seconds = self._settings.body_seconds
            raise HTTPException(408, f"the body did not arrive within {seconds:g} s", {"Connection": "close"}) from None
        except ClientDisconnect:
            raise HTTPException(400, "the body was cut short") from None
        finally:
            self._held -= len(body)

    def _too_large(self) -> HTTPException:
        megabytes = self._settings.most_bytes / 1e6
        return HTTPException(413, f"more than {megabytes:g} MB: send the image alone, or start with --most-mb")
