"""A proxy on loopback that answers as a server behind it does, each request some milliseconds later, and counts them.

    python -m tests.support.latency_proxy PORT http://127.0.0.1:9000 30

What it has seen is read from ``/-/requests`` and forgotten by a ``DELETE`` of it: so tests and measurements see what
crosses the network, whatever library sends it. It may be asked to kill a process when it has made some requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

SEEN = "/-/requests"
KILL = "/-/kill"  # with the queries `group` and `after`
# Of one connection to the next: the proxy has its own on each side.
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}


@dataclass(frozen=True)
class Request:
    """One request to the server.

    Args:
        verb: ``GET``, ``RANGE`` for one of a part, ``HEAD``, ``PUT``, ``POST``, ``DELETE`` or ``LIST``.
        key: in the bucket; of a listing the prefix.
        status: of the answer.
        sent: bytes of its body.
        received: bytes of the answer.
    """

    verb: str
    key: str
    status: int
    sent: int
    received: int


class LatencyProxy:
    """A running proxy.

    Args:
        endpoint: its address.
        prefix: of the keys of the store, which `counts` leaves out; empty: the bucket's own.
    """

    def __init__(self, endpoint: str, prefix: str = "") -> None:
        self.endpoint, self.prefix = endpoint, f"{prefix}/" if prefix else ""

    def forget(self) -> None:
        """Forget what was seen."""
        request = urllib.request.Request(self.endpoint + SEEN, method="DELETE")
        urllib.request.urlopen(request, timeout=10).close()

    def kill(self, group: int, after: int) -> None:
        """Kill a group of processes when the server has done so many requests from now on, the last unanswered."""
        asked = urllib.request.Request(f"{self.endpoint}{KILL}?group={group}&after={after}", method="POST")
        urllib.request.urlopen(asked, timeout=10).close()

    def requests(self) -> list[Request]:
        """All requests since the last `forget`, in the order of their answers."""
        with urllib.request.urlopen(self.endpoint + SEEN, timeout=10) as answer:
            return [Request(*each) for each in json.load(answer)]

    def counts(self) -> Counter[tuple[str, str]]:
        """How many requests of each verb went to each kind of key: the first folder below the prefix, and the second of
        artifacts."""
        return Counter((each.verb, self._kind(each.key)) for each in self.requests())

    def _kind(self, key: str) -> str:
        folders = key.removeprefix(self.prefix).split("/")
        return "/".join(folders[:2]) if folders[0] == "artifacts" else folders[0]


@contextmanager
def latency_proxy(server: str, milliseconds: float, prefix: str = "") -> Iterator[LatencyProxy]:
    """A proxy before a server, in a process of its own, so that it takes no time from what is measured.

    Args:
        server: address of the server.
        milliseconds: that each request waits.
        prefix: see `LatencyProxy`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.support.latency_proxy", str(port), server, str(milliseconds)]
    process = subprocess.Popen(command)
    proxy = LatencyProxy(f"http://127.0.0.1:{port}", prefix)
    try:
        for _ in range(100):
            try:
                proxy.forget()
                break
            except OSError:  # not listening as yet
                time.sleep(0.1)
        else:
            raise TimeoutError("the proxy did not start")
        yield proxy
    finally:
        process.kill()
        process.wait()


def _verb(method: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    if method == "GET" and ("list-type" in query or "prefix" in query):
        return "LIST"
    return "RANGE" if method == "GET" and "Range" in headers else method


async def _serve(port: int, server: str, seconds: float) -> None:
    import aiohttp
    from aiohttp import web
    from yarl import URL

    seen: list[Request] = []
    due: dict[int, int] = {}  # number of a request -> group of processes

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == SEEN:
            if request.method == "DELETE":
                seen.clear()
            rows = [[each.verb, each.key, each.status, each.sent, each.received] for each in seen]
            return web.json_response(rows)
        if request.path == KILL:
            due[len(seen) + int(request.query["after"])] = int(request.query["group"])
            return web.Response()
        if "Expect" in request.headers and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await request.content.read()  # of any size; `read` has a limit
        await asyncio.sleep(seconds)
        passed = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        address = URL(server + request.raw_path, encoded=True)
        async with session.request(request.method, address, headers=passed, data=body or None) as found:
            content = await found.read()
            given = [(name, value) for name, value in found.headers.items() if name.lower() not in _HOP_BY_HOP]
            length = found.headers.get("Content-Length")
        verb = _verb(request.method, request.query, request.headers)
        key = urllib.parse.unquote(request.path).lstrip("/").partition("/")[2]
        key = request.query.get("prefix", "") if verb == "LIST" else key
        seen.append(Request(verb, key, found.status, len(body), len(content)))
        if group := due.pop(len(seen), 0):
            os.killpg(group, signal.SIGKILL)
        response = web.Response(status=found.status, body=content, headers=given)
        if request.method == "HEAD" and length:
            response.headers["Content-Length"] = length
        return response

    connector = aiohttp.TCPConnector(limit=64)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]) / 1000))
