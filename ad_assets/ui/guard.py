"""Which requests the UI answers: a page of somebody else, open in the same browser, must not drive it.

Dagster's web server knows no login, executes mutations that come by GET and asks neither for Host nor for Origin. So a
foreign page could start runs with a picture's address, with a form, with a web socket or, by DNS rebinding, under a
name of its own. This ASGI application stands before it and refuses

- a Host that is not one of the UI's names (DNS rebinding),
- an Origin that is not that Host (forms, fetch, web sockets), and what browsers mark as coming from another site,
  but for a click on a link,
- GraphQL by GET, which changes things without any of this.

It is no login: whoever reaches the port with a client other than a browser can do everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
HOSTS = "AD_ASSETS_UI_HOSTS"  # further names, separated by commas
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1
_QUOTED = 100


class Guard:
    """An ASGI application that passes on what may be asked.

    Args:
        app: the application behind it.
        names: host names of the UI without port, beside those of the loopback interface.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app = app
        self._names = (*LOOPBACK, *(name.lower() for name in names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        reason = self._refusal(scope)
        if not reason:
            await self._app(scope, receive, _in_no_frame(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            await PlainTextResponse(f"{reason}\n", status_code=403)(scope, receive, send)

    def _refusal(self, scope: Scope) -> str:
        """Why a request is refused; empty if it is not."""
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or _name(hosts[0]) not in self._names:
            return f"this UI is not {_quoted(hosts)}: {HOSTS}=NAME adds a name to {', '.join(self._names)}"
        if origins and not (len(origins) == 1 and _address(origins[0].partition("://")[2]) == _address(hosts[0])):
            return f"the page of {_quoted(origins)} may ask nothing of {_quoted(hosts)}"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not _followed_link(scope, headers):
            return "a page of another site may link to this UI, nothing else"
        if _graphql_by_get(scope, headers):
            return "GraphQL is asked by POST"
        return ""


def names_in(environ: Mapping[str, str]) -> list[str]:
    """The further host names that the environment allows.

    >>> names_in({"AD_ASSETS_UI_HOSTS": "dagster.example.com, [2001:db8::1]"})
    ['dagster.example.com', '[2001:db8::1]']
    """
    return [name.strip() for name in environ.get(HOSTS, "").split(",") if name.strip()]


def _name(host: str) -> str:
    """A host without its port: ``[::1]:3000`` is ``[::1]``."""
    name, separator, port = host.rpartition(":")
    return (name if separator and port.isdecimal() else host).lower()


def _address(host: str) -> str:
    """A host with its port, unless that is the one of the scheme, which browsers leave out."""
    return host.lower().removesuffix(":80").removesuffix(":443")


def _followed_link(scope: Scope, headers: Headers) -> bool:
    """Whether a person clicked on a link, to open a page of its own."""
    opens = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return opens and scope["type"] == "http" and scope["method"] == "GET"


def _graphql_by_get(scope: Scope, headers: Headers) -> bool:
    # Where HTML is accepted, the answer is the page of GraphiQL, which asks nothing by itself.
    asked = scope["type"] == "http" and scope["path"].rstrip("/").endswith("/graphql")
    return asked and scope["method"] in ("GET", "HEAD") and "text/html" not in headers.get("accept", "")


def _in_no_frame(send: Send) -> Send:
    """Answers that another site's page cannot lay under what people think they click on."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-frame-options", b"SAMEORIGIN")]}
        await send(message)

    return sent


def _quoted(values: list[str]) -> str:
    return ", ".join(repr(value[:_QUOTED]) for value in values) or "without a name"
