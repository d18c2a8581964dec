"""The front's port: TLS, and bounds on what comes before a request is known to be one."""

from __future__ import annotations

import asyncio
import socket
import threading
from functools import partial
from types import TracebackType
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgefl.errors import RefusedError
from edgefl_server.host.authority import Credentials
from edgefl_server.host.front import Front, Limits

__all__ = ["FrontServer"]

_HEAD_BYTES = 16 * 1024
_IDLE_SECONDS = 75
_CONNECTIONS = 512
_STOP_SECONDS = 5


class _PatientOnlySoLong(H11Protocol):
    """Closes a connection whose next request does not come to the end of its head in time.

    uvicorn waits for ever for a head that has begun, or that never begins on a new connection.
    """

    def __init__(self, *args: Any, head_seconds: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_seconds = head_seconds
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_seconds, self.transport.close)

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_ready.set()


class FrontServer:
    """Serves a front from a thread of its own; a context manager.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, front: Front, host: str, port: int, credentials: Credentials, limits: Limits) -> None:
        """Take the port.

        Args:
            front: The application.
            host: The address to listen on.
            port: The port, 0 for any.
            credentials: Of the server.
            limits: On requests.

        Raises:
            RefusedError: If the port cannot be had.
        """
        self._front = front
        self._server = _Server(_config(front, credentials, limits))
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), name="edgefl-front", daemon=True)
        self._socket = _listening(host, port)
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        self._server.is_ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let running requests end, for some seconds."""
        self._server.should_exit = True
        self._thread.join()

    async def _serve(self) -> None:
        try:
            await self._server.serve([self._socket])
        finally:
            await self._front.close()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small answers at once only where it sees that this is TCP.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_CONNECTIONS)
    except (OSError, OverflowError) as error:
        listening.close()
        raise RefusedError(f"cannot listen on {host}:{port}: {error}; is it taken?") from error
    return listening


def _config(front: Front, credentials: Credentials, limits: Limits) -> uvicorn.Config:
    config = uvicorn.Config(
        front,
        http=partial(_PatientOnlySoLong, head_seconds=limits.head_seconds),  # type: ignore[arg-type]  # called, no more
        ws="none",
        lifespan="off",
        ssl_certfile=str(credentials.certificate),
        ssl_keyfile=str(credentials.key),
        limit_concurrency=_CONNECTIONS,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
    )
    config.load()  # here, where what is wrong with a certificate is raised to the caller
    return config
