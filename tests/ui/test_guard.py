"""Dagster's web server behind the guard, on loopback: foreign pages and names are refused, people go on as before."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from ad_assets.ui import webserver
from tests.support.dev_server import free_port
from tests.support.forked import Forked

NAME = "dagster.example.com"  # a proxy's name of this UI
# Harmless, and what it changes can be read again: whether the "new user experience" was seen.
MUTATION = "mutation { setNuxSeen }"
QUERY = "{ shouldShowNux }"


class Server:
    """The guarded web server without any code location."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        environ = {"DAGSTER_HOME": str(home), "AD_ASSETS_UI_HOSTS": f" {NAME.title()},"}

        def serve() -> int:
            os.chdir(home)
            sys.argv = ["webserver", "--empty-workspace", "-p", str(self.port)]
            webserver.main()
            return 0

        self.process = Forked(serve, home / "log", environ)
        deadline = time.monotonic() + 120
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                pytest.fail(f"no answer: {(home / 'log').read_text()}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return self.ask("GET", "/server_info")[0] == 200
        except ConnectionError:
            return False

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
        """Status and text of an answer; ``Sec_Fetch_Site`` is the header Sec-Fetch-Site, `Host` its own by default."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": self.host, "Content-Length": str(len(body or "")), **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders((body or "").encode())
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        self.frame_options = answer.getheader("X-Frame-Options")
        return answer.status, text

    def run(self, query: str, **headers: str) -> tuple[int, str]:
        return self.ask("POST", "/graphql", json.dumps({"query": query}), **JSON_HEADERS, **headers)


JSON_HEADERS = {"Content_Type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    started = Server(home)
    try:
        yield started
    finally:
        started.process.kill()


def test_what_people_and_scripts_ask_is_answered(server: Server) -> None:
    for host in (server.host, f"localhost:{server.port}", f"LOCALHOST:{server.port}", f"[::1]:{server.port}", NAME):
        assert server.run(QUERY, Host=host, Origin=f"http://{host.lower()}")[0] == 200
        assert server.run(QUERY, Host=host)[0] == 200  # a script
    assert server.run(QUERY, Host=f"{NAME}:443", Origin=f"https://{NAME}")[0] == 200
    assert server.run(QUERY, Origin=f"http://{server.host}", Sec_Fetch_Site="same-origin")[0] == 200
    status, page = server.ask("GET", "/overview", Accept="text/html")
    assert (status, server.frame_options) == (200, "SAMEORIGIN")
    assert "<html" in page
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert server.ask("GET", "/assets", Accept="text/html", **link)[0] == 200
    assert "GraphiQL" in server.ask("GET", f"/graphql?query={quote(MUTATION)}", Accept="text/html,*/*")[1]


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Host": "evil.example"}, "this UI is not 'evil.example'"),
        ({"Host": "evil.example:{port}", "Origin": "http://evil.example:{port}"}, "this UI is not"),
        ({"Host": "localhost.evil.example"}, "this UI is not"),
        ({"Host": f"{NAME}.evil.example"}, "this UI is not"),
        ({"Host": "127.0.0.1@evil.example"}, "this UI is not"),
        ({"Host": "10.0.0.1:{port}"}, "AD_ASSETS_UI_HOSTS=NAME adds a name"),
        ({"Host": ""}, "this UI is not"),
        ({"Origin": "http://evil.example"}, "the page of 'http://evil.example' may ask nothing"),
        ({"Origin": "http://127.0.0.1:1"}, "may ask nothing"),
        ({"Origin": "http://localhost:{port}"}, "may ask nothing"),
        ({"Origin": "null"}, "may ask nothing"),
        ({"Origin": ""}, "may ask nothing"),
        ({"Origin": f"https://{NAME}"}, "may ask nothing"),
        ({"Sec_Fetch_Site": "cross-site"}, "may link to this UI, nothing else"),
        ({"Sec_Fetch_Site": "same-site"}, "may link"),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}, "may link"),
    ],
)
def test_foreign_pages_and_names_are_refused(server: Server, headers: dict[str, str], says: str) -> None:
    given = {name: value.format(port=server.port) for name, value in headers.items()}
    status, text = server.run(MUTATION, **given)
    assert status == 403
    assert says in text
    assert len(text) < 400


def test_a_foreign_page_can_put_the_ui_in_no_frame_or_picture(server: Server) -> None:
    for kind in ("iframe", "image", "script"):
        asked = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": kind}
        assert server.ask("GET", "/overview", Accept="text/html", **asked)[0] == 403


def test_nothing_changes_by_get_or_for_a_stranger(server: Server) -> None:
    query = quote(MUTATION)
    for path in (f"/graphql?query={query}", f"/graphql/?query={query}", "/graphql?query=%7B__typename%7D"):
        for method in ("GET", "HEAD"):
            assert server.ask(method, path, Accept="*/*")[0] == 403
    assert (
        server.ask("POST", f"/graphql?query={query}", Origin="http://evil.example", Content_Type="text/plain")[0] == 403
    )
    assert server.ask("POST", "/report_asset_materialization/a", Origin="http://evil.example")[0] == 403
    assert server.run(QUERY) == (200, '{"data":{"shouldShowNux":true}}')
    assert server.run(MUTATION) == (200, '{"data":{"setNuxSeen":true}}')
    assert server.run(QUERY) == (200, '{"data":{"shouldShowNux":false}}')


def test_web_sockets_are_for_the_uis_own_pages(server: Server) -> None:
    address, kind = f"ws://{server.host}/graphql", [Subprotocol("graphql-ws")]
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        with pytest.raises(InvalidStatus, match="HTTP 403"):
            connect(address, origin=Origin(origin), subprotocols=kind)
    with pytest.raises(InvalidStatus, match="HTTP 403"):
        connect(address, additional_headers={"Sec-Fetch-Site": "cross-site"}, subprotocols=kind)
    with connect(address, origin=Origin(f"http://{server.host}"), subprotocols=kind) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv(30)) == {"type": "connection_ack"}
        subscription = "subscription { locationStateChangeEvents { event { message } } }"
        socket.send(json.dumps({"id": "1", "type": "start", "payload": {"query": subscription}}))
        socket.send(json.dumps({"id": "2", "type": "start", "payload": {"query": "subscription { nothing }"}}))
        assert json.loads(socket.recv(30))["type"] == "error"  # of the second; the first one waits for events
