"""Real servers on loopback: answers, refusals, and nothing lost or mixed up while champions change."""

from __future__ import annotations

import base64
import io
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ad_assets_runtime.identity import content_id
from ad_assets_runtime.server.settings import TOKEN, ServerError, ServerSettings
from tests.support.line_bundles import SIDE, expected, picture, png, promote, write_bundle
from tests.support.line_server import LineServer, until

PREDICT = "/v1/parts/bolt/predict"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("line")
    promote(root, "b/one", write_bundle(root / "b/one"))
    for lane in ("mean", "second"):
        place = ("parts", lane, "nut")
        promote(root, f"b/{lane}", write_bundle(root / f"b/{lane}", place=place), place)
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[LineServer]:
    with LineServer(root, root / "home", "--most-mb", "1") as started:
        yield started


def metrics(server: LineServer) -> bytes:
    """What Prometheus is told."""
    text: bytes = server.ask("GET", "/metrics")[1]
    return text


def test_an_image_gets_score_decision_regions_and_who_said_it(server: LineServer) -> None:
    status, result, _ = server.ask("POST", f"{PREDICT}?name=x.png", png(picture(3)))
    assert status == 200
    assert result["score"] == pytest.approx(expected(picture(3), 60)[1])
    assert result["anomalous"] is (result["score"] > 40)
    assert result["image_id"] == content_id(png(picture(3)))
    assert (result["champion"]["state"], result["threshold"]) == ("state-60", 40.0)


def test_a_heat_map_is_a_png_of_the_images_size(server: LineServer) -> None:
    status, data, headers = server.ask("POST", PREDICT, png(picture(3)), Accept="image/png")
    assert (status, headers["content-type"], data[:4]) == (200, "image/png", b"\x89PNG")
    assert Image.open(io.BytesIO(data)).size == (56, 40)
    assert json.loads(headers["x-result"])["image_id"] == content_id(png(picture(3)))


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        (PREDICT, b"", {}, 400, "empty"),
        (PREDICT, b"no image", {}, 400, "not an image"),
        (PREDICT, png(picture(1))[:300], {}, 400, "decoded"),
        (PREDICT, b"x" * 1_000_001, {}, 413, "more than 1 MB"),
        (PREDICT, b"x", {"Content_Type": "multipart/form-data; boundary=x"}, 415, "--data-binary"),
        ("/v1/parts/washer/predict", b"x", {}, 404, "no champion"),
        ("/v1/parts/nut/predict", b"x", {}, 404, "lanes mean, second: name one, as in ?lane=mean"),
        ("/v1/parts/bolt/feedback", b"{}", {"Content_Type": "text/plain"}, 415, "JSON"),
        ("/v1/parts/bolt/feedback", b"{}", {"Content_Type": "application/json"}, 400, "image_id"),
        (PREDICT, b"x", {"Sec_Fetch_Site": "cross-site"}, 403, "another site"),
        (PREDICT, b"x", {"Host": "evil.example"}, 403, "evil.example"),
        ("/v2/models/parts.mean.washer/infer", b"{}", {}, 404, "no model"),
        ("/v2/models/parts.mean.bolt/infer", b"{}", {}, 400, "inputs"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(server, path, body, headers, status, words) -> None:
    got, answer, _ = server.ask("POST", path, body, **headers)
    assert (got, words in answer["error"]) == (status, True), answer
    assert len(answer["error"]) < 2000


def test_a_body_of_100_mb_and_one_without_a_length_are_refused_while_others_are_served(server: LineServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 413")  # before a byte of it was sent
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(3):
            client.sendall(b"61A80\r\n" + bytes(400_000) + b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413")
    assert server.ask("POST", PREDICT, png(picture(1)))[0] == 200


def test_the_open_inference_protocol_takes_files_and_pixels_in_json_and_in_binary(server: LineServer) -> None:
    path, rgb = "/v2/models/parts.mean.bolt", picture(5)
    score = pytest.approx(expected(rgb, 60)[1])
    status, told, _ = server.ask("GET", path)
    assert (status, told["inputs"][0]["datatype"]) == (200, "BYTES")
    assert server.ask("GET", f"{path}/ready")[0] == server.ask("GET", "/v2/health/ready")[0] == 200
    file = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png(rgb)).decode()]}
    pixels = {"name": "image", "datatype": "UINT8", "shape": [1, *rgb.shape], "data": rgb.ravel().tolist()}
    for tensor in (file, pixels):
        body = json.dumps({"id": "a", "inputs": [tensor]}).encode()
        status, answer, _ = server.ask("POST", f"{path}/infer", body)
        outputs = {each["name"]: each["data"] for each in answer["outputs"]}
        assert (status, answer["id"], outputs["score"][0], outputs["threshold"]) == (200, "a", score, [40.0])
    data = png(rgb)
    asked = {
        "inputs": [{**file, "parameters": {"binary_data_size": len(data) + 4}}],
        "outputs": [{"name": "map", "parameters": {"binary_data": True}}, {"name": "anomalous"}],
    }
    del asked["inputs"][0]["data"]
    head = json.dumps(asked).encode()
    length = {"Inference_Header_Content_Length": str(len(head))}
    version = told["versions"][0]
    status, answer, headers = server.ask(
        "POST", f"{path}/versions/{version}/infer", head + struct.pack("<I", len(data)) + data, **length
    )
    size = int(headers["inference-header-content-length"])
    assert (status, json.loads(answer[:size])["outputs"][0]["shape"]) == (200, [1, SIDE, SIDE])
    np.testing.assert_allclose(np.frombuffer(answer[size:], "<f4").reshape(SIDE, SIDE), expected(rgb, 60)[0], rtol=1e-6)
    assert server.ask("POST", f"{path}/versions/other/infer", head)[0] == 404


IMAGE = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2, 3]}


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{", b'{"inputs": 3}', b'{"inputs": [3]}', b"[" * 100_000, b"\xff\xfe"),
        *({"inputs": [IMAGE, IMAGE]}, {"inputs": [IMAGE | {"name": "x"}]}, {"inputs": [IMAGE | {"datatype": "FP32"}]}),
        *({"inputs": [IMAGE | {"shape": shape}]} for shape in ([], [3], [-1, 1, 3], [1e300, 1, 3], [10**9, 10**9, 3])),
        *(
            {"inputs": [IMAGE | {"data": data}]}
            for data in (None, [1, 2], [1, 2, 256], [1.5, 2, 3], ["a", "b", "c"], {})
        ),
        *({"inputs": [IMAGE | {"parameters": {"binary_data_size": size}}]} for size in (3, -7, [], "x", 10**30)),
        *({"inputs": [IMAGE], "outputs": outputs} for outputs in (3, [3], [{}], [{"name": "x"}])),
        *(
            {"inputs": [IMAGE | {"datatype": "BYTES", "shape": s, "data": d}]}
            for s, d in (([1], ["%"]), ([2], ["YQ=="]))
        ),
    ],
    ids=lambda body: str(body)[:60],
)
def test_what_is_no_request_of_the_protocol_is_refused_in_words(server: LineServer, body: object) -> None:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer, _ = server.ask("POST", "/v2/models/parts.mean.bolt/infer", sent)
    assert (status, len(answer["error"]) < 500) == (400, True), answer


def test_where_several_lanes_are_served_one_is_named(server: LineServer) -> None:
    told = server.ask("POST", "/v1/parts/nut/predict?lane=second", png(picture(29)))[1]
    assert told["champion"]["lane"] == "second"
    image = f"/v1/parts/nut/images/{told['image_id']}?lane=second"
    until(lambda: server.ask("GET", image)[0] == 200)
    body = json.dumps({"image_id": told["image_id"], "said": "confirmed"}).encode()
    assert server.ask("POST", "/v1/parts/nut/feedback?lane=second", body, Content_Type="application/json")[0] == 200


def test_bodies_that_are_held_at_once_are_bounded(server: LineServer) -> None:
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(6)]
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n".encode()
    for client in clients:
        client.sendall(head + bytes(990_000))
    readable, _, _ = select.select(clients, [], [], 20)
    assert readable
    assert all(client.recv(4096).startswith(b"HTTP/1.1 429") for client in readable)
    for client in clients:
        client.close()
    until(lambda: server.ask("POST", PREDICT, png(picture(1)))[0] == 200)


def test_metrics_and_the_description_tell_what_is_served(server: LineServer) -> None:
    server.ask("POST", PREDICT, png(picture(3)))
    text = metrics(server).decode()
    assert 'ad_assets_champion_info{bundle="' in text
    assert 'state="state-60"' in text
    assert 'ad_assets_bundle_refused{category="bolt",dataset="parts",lane="mean"} 0.0' in text
    assert 'ad_assets_step_seconds_bucket{le="0.1",step="score"}' in text
    assert 'ad_assets_requests_total{route="predict",status="200"}' in text
    paths = server.ask("GET", "/openapi.json")[1]["paths"]
    for path, methods in paths.items():
        for method in methods:
            asked = path.replace("{dataset}/{category}", "parts/bolt").replace("{model}", "parts.mean.bolt")
            assert server.ask(method.upper(), asked, b"{}" if method == "post" else None)[0] in (200, 400, 404, 415)
    assert b"openapi.json" in server.ask("GET", "/docs")[1]


def test_feedback_reaches_the_outbox_with_the_image_and_quiets_that_very_file(server: LineServer, root: Path) -> None:
    data = png(picture(29))
    result = server.ask("POST", f"{PREDICT}?name=camera/29.png", data)[1]
    assert result["anomalous"]
    image = f"/v1/parts/bolt/images/{result['image_id']}"
    until(lambda: server.ask("GET", image)[0] == 200)
    assert server.ask("GET", f"{image}/heat-map")[1][:4] == b"\x89PNG"
    body = json.dumps({"image_id": result["image_id"], "said": "false_alarm", "reason": "a reflection"}).encode()
    status, said, _ = server.ask("POST", "/v1/parts/bolt/feedback", body, Content_Type="application/json")
    assert (status, said["said"]) == (200, "false_alarm")
    [message] = [json.loads(path.read_text()) for path in (root / "home/outbox/feedback/parts/bolt").glob("*.json")]
    assert (message["said"], message["reason"], message["image"]) == ("false_alarm", "a reflection", content_id(data))
    assert (root / "home/outbox/images" / content_id(data)).read_bytes() == data
    again = server.ask("POST", PREDICT, data)[1]
    assert (again["anomalous"], again["decided"] != "", again["score"] > 40) == (False, True, True)
    undone = json.dumps({"image_id": result["image_id"], "said": "undo"}).encode()
    server.ask("POST", "/v1/parts/bolt/feedback", undone, Content_Type="application/json")
    assert server.ask("POST", PREDICT, data)[1]["anomalous"] is True
    listed = server.ask("GET", "/v1/inspections?most=3")[1]
    assert [row["said"] for row in listed] == ["", "", ""]
    assert server.ask("GET", f"/v1/parts/bolt/images/{'0' * 64}")[0] == 404
    for trick in ("..%2f..%2f..%2fetc%2fpasswd", "x"):
        assert server.ask("GET", f"/v1/parts/bolt/images/{trick}")[0] == 404


def test_a_slow_client_is_given_up_and_holds_nobody_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from ad_assets_runtime.champions import Champions
    from ad_assets_runtime.server import run

    settings = ServerSettings(root / "slow", body_seconds=0.3, port=0)
    monkeypatch.setattr(run, "_HEADER_SECONDS", 0.3)
    server = run.server_of(settings, Champions(root, root / "slow/cache"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as of_head,
            socket.create_connection(("127.0.0.1", port), timeout=20) as of_body,
        ):
            of_head.sendall(b"POST /v1/parts")
            of_body.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc".encode())
            assert of_body.recv(4096).startswith(b"HTTP/1.1 408")
            assert of_head.recv(4096) == b""
    finally:
        server.should_exit = True
        thread.join(20)


def test_a_token_is_asked_for_and_needed_beyond_this_computer(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=TOKEN):
        ServerSettings(tmp_path, host="0.0.0.0").check()  # noqa: S104
    ServerSettings(tmp_path, host="0.0.0.0", token="t").check()  # noqa: S104, S106
    with LineServer(root, tmp_path / "home", **{TOKEN: "geheim"}) as server:
        assert server.ask("GET", "/v2/health/ready")[0] == server.ask("GET", "/")[0] == 200
        for path, method in (("/v1/champions", "GET"), (PREDICT, "POST"), ("/metrics", "GET")):
            assert server.ask(method, path)[0] == 401
            assert server.ask(method, path, Authorization="Bearer falsch")[0] == 401
        assert server.ask("GET", "/v1/champions", Authorization="Bearer geheim", Host="line7")[0] == 200


def test_a_full_queue_says_when_to_come_again_and_a_stop_answers_what_is_under_way(root: Path, tmp_path: Path) -> None:
    large = png(np.tile(picture(2, (30, 40)), (100, 100, 1)))
    with LineServer(root, tmp_path / "home", "--workers", "1", "--waiting", "2") as server:
        answers: list[tuple[int, dict[str, str]]] = []

        def ask() -> None:
            status, _, headers = server.ask("POST", PREDICT, large)
            answers.append((status, headers))

        clients = [threading.Thread(target=ask) for _ in range(8)]
        for client in clients:
            client.start()
        until(lambda: len(answers) >= len(clients) - 2)  # so the others are under way
        assert server.stop() == 0
        for client in clients:
            client.join()
        statuses = [status for status, _ in answers]
        assert set(statuses) == {200, 429}
        assert len(statuses) == len(clients)
        assert all(int(headers["retry-after"]) >= 1 for status, headers in answers if status == 429)
    rows = [line for path in (tmp_path / "home/outbox").rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(rows) == statuses.count(200)


@pytest.mark.parametrize("requests", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_answer_is_lost_or_mixed_up_while_a_promotion_and_a_rollback_happen(tmp_path: Path, requests: int) -> None:
    root, clients = tmp_path / "root", 8
    first = write_bundle(root / "b/one", colour=60)
    second = write_bundle(root / "b/two", colour=90)
    promote(root, "b/one", first)
    images = [png(picture(number)) for number in range(20)]
    wanted = {
        (content_id(data), state): expected(picture(number), colour)[1]
        for number, data in enumerate(images)
        for state, colour in (("state-60", 60), ("state-90", 90))
    }
    answered: list[tuple[str, str]] = []
    wrong: list[object] = []
    seconds: list[float] = []

    def client(number: int, server: LineServer) -> None:
        connection = server.connect()
        for turn in range(requests // clients):
            data = images[(number * 7 + turn) % len(images)]
            started = time.perf_counter()
            status, result, _ = server.ask("POST", PREDICT, data, connection)
            seconds.append(time.perf_counter() - started)
            if status != 200:
                wrong.append((status, result))
                continue
            key = (result["image_id"], result["champion"]["state"])
            if result["image_id"] != content_id(data) or abs(result["score"] - wanted[key]) > 1e-3:
                wrong.append(result)
            answered.append(key)

    with LineServer(root, root / "home") as server:
        for data in images * 3:
            server.ask("POST", PREDICT, data)
        before = server.memory()
        threads = [threading.Thread(target=client, args=(number, server)) for number in range(clients)]
        for thread in threads:
            thread.start()
        total = requests // clients * clients
        until(lambda: len(answered) > total * 0.25, 600)
        promote(root, "b/two", second)
        until(lambda: "state-90" in {state for _, state in answered[-20:]}, 600)
        promote(root, "b/one", first)
        for thread in threads:
            thread.join()
        after = server.memory()
        until(lambda: server.ask("GET", "/v1/champions")[1]["champions"][0]["state"] == "state-60")
        promote(root, "b/none", "0" * 64)
        until(lambda: b'ad_assets_bundle_refused{category="bolt",dataset="parts",lane="mean"} 1.0' in metrics(server))
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        assert server.ask("POST", PREDICT, images[0])[1]["champion"]["state"] == "state-60"
        assert server.stop() == 0
    assert wrong == []
    assert len(answered) == total
    assert {state for _, state in answered} == {"state-60", "state-90"}
    lines = [line for path in (root / "home/outbox").rglob("*.jsonl") for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    assert len(rows) == total + 3 * len(images) + 1
    assert len({row["time"] for row in rows}) == len(rows)
    assert after - before < 60e6, f"{before / 1e6:.0f} MB grew to {after / 1e6:.0f} MB"
    millis = np.percentile(np.array(seconds) * 1e3, [50, 95, 99])
    print(
        f"{total} requests, {clients} clients: p50 {millis[0]:.1f}, p95 {millis[1]:.1f}, p99 {millis[2]:.1f} ms, "
        f"{before / 1e6:.0f} to {after / 1e6:.0f} MB"
    )
