"""A real HTTP server on the loopback address whose answers a test decides."""

from __future__ import annotations

import email.utils
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

PROTOBUF = "application/protobuf"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request: the last component of its path, its headers and its body."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response; `clock_seconds` is how far the server's clock is ahead, `cut_bytes` what its end lacks."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": PROTOBUF})
    clock_seconds: float = 0.0
    cut_bytes: int = 0


def free_port() -> int:
    """Return a port of the loopback address that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class HttpServer:
    """Serves until its block ends; keeps every request."""

    def __init__(self, decide: Callable[[Asked], Answer], *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        asked: list[Asked] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body of an answer are two writes

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                asked.append(Asked(path=self.path.rpartition("/")[2], headers=dict(self.headers), body=body))
                answer = decide(asked[-1])
                self.send_response_only(answer.status)
                self.send_header("date", email.utils.formatdate(time.time() + answer.clock_seconds, usegmt=True))
                self.send_header("content-length", str(len(answer.body)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body[: len(answer.body) - answer.cut_bytes])
                self.close_connection = answer.cut_bytes > 0

            def log_message(self, *_: object) -> None:
                """Keep the test's output clean."""

        self.asked = asked
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
