"""Starts the server and ends it: what is under way is answered first."""

from __future__ import annotations

import asyncio
import logging
import signal

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ad_assets_runtime.champions import ServedChampions
from ad_assets_runtime.server.app import LineServer
from ad_assets_runtime.server.settings import ServerSettings

_HEADER_SECONDS = 10.0  # within which the head of a request must be there
_KEEP_ALIVE_SECONDS = 30
_STOP_SECONDS = 30


class _Protocol(H11Protocol):
    """Closes connections whose client sends no whole head of a request in time, which uvicorn waits for for ever."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            if self._deadline:
                self._deadline.cancel()
            self._deadline = None
        elif self._deadline is None:
            self._deadline = self.loop.call_later(_HEADER_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


def serve(settings: ServerSettings, champions: ServedChampions) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit status.

    Raises:
        ServerError: it may not be started like this.
    """
    settings.check()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    server = server_of(settings, champions)
    # uvicorn ends gracefully, then raises the signal again, as if nobody had heeded it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    server.run()
    return 0 if server.started else 1


def server_of(settings: ServerSettings, champions: ServedChampions) -> uvicorn.Server:
    """A server that has not been started."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return uvicorn.Server(
        uvicorn.Config(
            LineServer(settings, champions).app(),
            host=settings.host,
            port=settings.port,
            http=_Protocol,
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
    )
