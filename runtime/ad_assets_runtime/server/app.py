"""The routes of the server: see `DESCRIPTION` in `ad_assets_runtime.server.description`, which it serves as a page."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ad_assets_runtime.bundle import Inspected
from ad_assets_runtime.champions import Follower, Served, ServedChampions
from ad_assets_runtime.images import ImageError
from ad_assets_runtime.pictures import heat_map_png, picture_png
from ad_assets_runtime.records import SAID, Records
from ad_assets_runtime.results import result_of
from ad_assets_runtime.server import inference_protocol as protocol
from ad_assets_runtime.server.description import description
from ad_assets_runtime.server.guard import Bodies, Guard, problem
from ad_assets_runtime.server.measures import TEXT, Measures
from ad_assets_runtime.server.scoring import BusyError, Scoring
from ad_assets_runtime.server.settings import ServerSettings

Endpoint = Callable[[Request], Awaitable[Response]]
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_MOST_LISTED = 200


class LineServer:
    """Answers for the champions of a line.

    Args:
        settings: what it is started with.
        champions: what is served.
    """

    def __init__(self, settings: ServerSettings, champions: ServedChampions) -> None:
        self._settings, self.champions = settings, champions
        self.records = Records(settings.home, outbox=settings.outbox, kept_gb=settings.kept_gb)
        self._bodies = Bodies(settings)
        self._scoring = Scoring(settings.workers, settings.most_waiting)
        self._measures = Measures(champions, self._scoring, self.records)

    def app(self) -> Starlette:
        """The application."""
        v1, v2 = "/v1/{dataset}/{category}", "/v2/models/{model}"
        routes = [
            self._route("/", self._page, "page"),
            self._route("/docs", self._docs, "docs"),
            self._route("/openapi.json", self._openapi, "openapi"),
            self._route("/metrics", self._metrics, "metrics"),
            self._route("/v1/champions", self._list_champions, "champions"),
            self._route("/v1/inspections", self._list_inspections, "inspections"),
            self._route(f"{v1}/predict", self._predict, "predict", "POST"),
            self._route(f"{v1}/feedback", self._feedback, "feedback", "POST"),
            self._route(f"{v1}/images/{{image_id}}", self._image, "image"),
            self._route(f"{v1}/images/{{image_id}}/heat-map", self._heat_map, "heat-map"),
            self._route("/v2", self._about, "v2"),
            self._route("/v2/health/live", self._live, "live"),
            self._route("/v2/health/ready", self._ready, "ready"),
        ]
        for path in (v2, f"{v2}/versions/{{version}}"):
            routes += [
                self._route(path, self._model, "model"),
                self._route(f"{path}/ready", self._model_ready, "model-ready"),
                self._route(f"{path}/infer", self._infer, "predict", "POST"),
            ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(Guard, settings=self._settings)],
            exception_handlers={HTTPException: _refused},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        del app
        await run_in_threadpool(self.champions.poll)
        follower = Follower(self.champions, self._settings.poll_seconds)
        follower.start()
        self.records.start()
        yield
        await run_in_threadpool(follower.stop)
        await run_in_threadpool(self._scoring.close)
        await run_in_threadpool(self.records.stop)

    def _route(self, path: str, endpoint: Endpoint, name: str, method: str = "GET") -> Route:
        async def answered(request: Request) -> Response:
            started, status = time.perf_counter(), 500
            try:
                response = await self._answer(endpoint, request)
                status = response.status_code
                response.headers.update(_HEADERS)
                return response
            finally:
                self._measures.answered(name, status, time.perf_counter() - started)

        return Route(path, answered, methods=[method])

    @staticmethod
    async def _answer(endpoint: Endpoint, request: Request) -> Response:
        try:
            return await endpoint(request)
        except HTTPException as error:
            return _refused(request, error)
        except BusyError as error:
            return problem(429, str(error), {"Retry-After": str(error.after)})
        except (ImageError, protocol.ProtocolError) as error:
            return problem(400, str(error))

    # Predictions

    async def _predict(self, request: Request) -> Response:
        served = self._served(request)
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(
                415, "send the bytes of the image as the body, without a form: curl --data-binary @x.png"
            )
        name = request.query_params.get("name", "")[:300] or "image"
        in_colour = "image/png" in request.headers.get("accept", "")
        async with self._bodies.of(request) as data:
            image, picture = await self._scoring.run(partial(self._scored, served, data, name, in_colour))
        result = result_of(image)
        if picture is None:
            return JSONResponse(result)
        return Response(picture, media_type="image/png", headers={"X-Result": json.dumps(result)})

    def _scored(self, served: Served, data: bytes, name: str, in_colour: bool) -> tuple[Inspected, bytes | None]:
        image = served.bundle.inspect(data, name, self.records.decided)
        self.records.add(image)
        self._measures.scored(served.bundle.place, image.prediction)
        return image, heat_map_png(image.rgb, image.prediction, served.bundle.colours) if in_colour else None

    async def _infer(self, request: Request) -> Response:
        served = self._model_of(request)
        async with self._bodies.of(request) as body:
            asked = await run_in_threadpool(protocol.parse, body, request.headers.get(protocol.HEADER_LENGTH))
            image, _ = await self._scoring.run(partial(self._scored, served, asked.data, asked.name or "image", False))
        content, headers = protocol.answer(asked, image)
        return Response(content, headers=headers)

    def _served(self, request: Request) -> Served:
        place = request.path_params
        try:
            return self.champions.of(place["dataset"], place["category"], request.query_params.get("lane"))
        except KeyError as error:
            raise HTTPException(404, str(error.args[0])) from None

    def _model_of(self, request: Request) -> Served:
        name, version = request.path_params["model"], request.path_params.get("version")
        models = {protocol.model_name(place): served for place, served in self.champions.served.items()}
        served = models.get(name)
        if served is None or version not in (None, served.bundle.identity[:16]):
            of = f" of version {version[:40]}" if served and version else ""
            raise HTTPException(404, f"no model {name[:100]}{of} is served: there are {', '.join(models) or 'none'}")
        return served

    # What was inspected, and what people say of it

    async def _list_inspections(self, request: Request) -> Response:
        query = request.query_params
        most = query.get("most", "50")
        most_rows = min(int(most), _MOST_LISTED) if most.isdecimal() else 50
        return JSONResponse(self.records.recent(most_rows, query.get("dataset"), query.get("category")))

    async def _list_champions(self, request: Request) -> Response:
        del request
        served, refused = self.champions.served, self.champions.refused
        return JSONResponse(
            {
                "fault": self.champions.fault,
                "champions": [
                    {
                        **dict(zip(("dataset", "lane", "category"), place, strict=True)),
                        **(_described(served[place]) if place in served else {}),
                        "refused": vars(refused[place]) if place in refused else None,
                    }
                    for place in sorted({*served, *refused})
                ],
            }
        )

    async def _image(self, request: Request) -> Response:
        return _png(await self._scoring.run(partial(self._picture, request, heat=False)))

    async def _heat_map(self, request: Request) -> Response:
        return _png(await self._scoring.run(partial(self._picture, request, heat=True)))

    def _picture(self, request: Request, *, heat: bool) -> bytes:
        served, image_id = self._served(request), request.path_params["image_id"]
        place = request.path_params["dataset"], request.path_params["category"]
        try:
            if heat and (kept := self.records.heat_map(place, image_id)):
                return kept
            data = self.records.image(place, image_id)
        except FileNotFoundError:
            data = None
        if data is None:
            raise HTTPException(404, f"the image {image_id[:12]} is not kept (any more)")
        if not heat:
            return picture_png(served.bundle.decode(data, image_id[:12])[1])
        rows = (row for row in self.records.recent(_MOST_LISTED * 10, *place) if row["image_id"] == image_id)
        if next((row["bundle"] for row in rows), "") != served.bundle.identity:
            raise HTTPException(410, "the champion that scored it has gone, and heat maps are kept of alarms alone")
        image = served.bundle.inspect(data, image_id[:12], {})
        return heat_map_png(image.rgb, image.prediction, served.bundle.colours)

    async def _feedback(self, request: Request) -> Response:
        self._served(request)
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise HTTPException(415, "send JSON: Content-Type: application/json")
        try:
            async with self._bodies.of(request) as body:
                asked: dict[str, Any] = json.loads(body)
            image_id, said = asked["image_id"], asked["said"]
            reason, defect = str(asked.get("reason") or "")[:500], asked.get("defect")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise HTTPException(400, 'expected {"image_id": ..., "said": ..., "reason": ...}') from None
        if said not in SAID or not isinstance(image_id, str):
            raise HTTPException(400, f"said must be one of {', '.join(SAID)}")
        if defect is not None and not (isinstance(defect, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", defect)):
            raise HTTPException(400, "defect: expected letters, digits, _ . and -")
        place = request.path_params["dataset"], request.path_params["category"]
        try:
            await run_in_threadpool(self.records.say, place, image_id, said, reason, defect)
        except FileNotFoundError:
            raise HTTPException(404, f"the image {image_id[:12]} is not kept (any more)") from None
        except OSError as error:
            raise HTTPException(507, f"it cannot be written: {error}") from None
        return JSONResponse({"image_id": image_id, "said": self.records.said(image_id)})

    # The server itself

    async def _page(self, request: Request) -> Response:
        del request
        return HTMLResponse(_text("page.html"))

    async def _docs(self, request: Request) -> Response:
        del request
        return HTMLResponse(_text("docs.html"))

    async def _openapi(self, request: Request) -> Response:
        del request
        return JSONResponse(description(_version(), bool(self._settings.token)))

    async def _metrics(self, request: Request) -> Response:
        del request
        return Response(await run_in_threadpool(self._measures.text), media_type=TEXT)

    async def _about(self, request: Request) -> Response:
        del request
        return JSONResponse({"name": "ad-assets-runtime", "version": _version(), "extensions": ["binary_tensor_data"]})

    async def _live(self, request: Request) -> Response:
        del request
        return JSONResponse({"live": True})

    async def _ready(self, request: Request) -> Response:
        del request
        ready = bool(self.champions.served)
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def _model(self, request: Request) -> Response:
        return JSONResponse(protocol.metadata(self._model_of(request).bundle))

    async def _model_ready(self, request: Request) -> Response:
        served = self._model_of(request)
        return JSONResponse({"name": protocol.model_name(served.bundle.place), "ready": True})


def _described(served: Served) -> dict[str, Any]:
    bundle = served.bundle
    engine, decision = bundle.members[0].engine, bundle.manifest["decision"]
    return {
        **bundle.champion,
        "bundle": bundle.identity,
        "taken": served.taken,
        "threshold": bundle.threshold,
        "promise": decision.get("promise", ""),
        "engine": f"{engine.name} {engine.version}",
    }


def _refused(request: Request, error: Exception) -> Response:
    del request
    if not isinstance(error, HTTPException):
        raise error
    return problem(error.status_code, error.detail, dict(error.headers or {}))


def _png(data: bytes) -> Response:
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


def _text(name: str) -> str:
    return files("ad_assets_runtime.server").joinpath(name).read_text(encoding="utf-8")


def _version() -> str:
    for name in ("ad-assets-runtime", "ad-assets"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
