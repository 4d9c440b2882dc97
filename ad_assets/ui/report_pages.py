"""``/ad_assets/report/<dataset>/index.html`` in the UI: the current report of a dataset, wherever its store is.

Beside the first page lie those of the categories, as in the store. A browser opens no file of a disk from a page of a
server, and none of a bucket. A page is answered in a sandbox: what it holds came from file names and images, and must
not drive the UI that it has its address from.
"""

from __future__ import annotations

import html
from urllib.parse import quote, unquote

from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ad_assets.config.faults import ConfigError
from ad_assets.config.load import load_config
from ad_assets.graph.stages.published_pages import INDEX, REPORT_ADDRESS, asset_of_page, read_page
from ad_assets.store.store import CorruptArtifactError

# Scripts of the report run, in an origin of their own.
HEADERS = {
    "content-security-policy": "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; font-src data:",
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
}


class ReportPages:
    """An ASGI application that answers for reports and passes on the rest.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or not path.startswith(REPORT_ADDRESS):
            await self._app(scope, receive, send)
            return
        response = await run_in_threadpool(_answer, unquote(path.removeprefix(REPORT_ADDRESS)))
        await response(scope, receive, send)


def _answer(asked: str) -> Response:
    """The answer for a dataset, or for one of its pages."""
    dataset, _, page = asked.partition("/")
    if not page:
        return RedirectResponse(f"{REPORT_ADDRESS}{quote(dataset, safe='')}/{INDEX}")  # links are relative to a page
    status, content = _page(dataset, page)
    return HTMLResponse(content, status_code=status, headers=HEADERS)


def _page(dataset: str, name: str) -> tuple[int, bytes | str]:
    """Status and content of a page."""
    slot = asset_of_page(dataset, name)
    if slot is None:
        return 404, _told(f"the report of {dataset!r} has no page {name!r}")
    try:
        benchmark = load_config()
        if dataset not in benchmark.datasets:
            return 404, _told(f"{benchmark.source} has no dataset {dataset!r}")
        page = read_page(benchmark.store, dataset, name)
    except (ConfigError, CorruptArtifactError, OSError) as error:
        return 503, _told(str(error))
    asset = f"{'/'.join(slot[0])}{f' [{slot[1]}]' if slot[1] else ''}"
    return (200, page) if page else (404, _told(f"this page was never made: materialize {asset}"))


def _told(text: str) -> str:
    return f"<!doctype html><title>ad_assets</title><p>{html.escape(text)}</p>"
