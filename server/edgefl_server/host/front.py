"""What the network sees of a server: the Fleet API for devices that were paired, and nothing else of Flower.

Whoever reaches Flower's own port can run code on this machine.  So a request goes on only if its method and its path
are, byte for byte, one of those written down here, and then to an address that is made from that table, never from
what was sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import httpx
import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from edgefl.errors import UnreachableError
from edgefl.fleet.calls import FLEET_CALLS
from edgefl_server.host.device_auth import SIGNING_HEADERS, AuthError, sender
from edgefl_server.host.devices import TokenError
from edgefl_server.host.pairing import Pairing
from edgefl_server.host.rate import RateLimit

__all__ = ["Front", "Limits"]

logger = logging.getLogger(__name__)

_PASSED_ON = ("content-type", *SIGNING_HEADERS)
_PASSED_BACK = ("content-type",)
_PAIRING_BYTES = 1024
# What edgefl's clients call, and what Flower's own nodes call besides.
_FLEET_PATHS = (*(call.path for call in FLEET_CALLS), "get-run", "get-fab")
_UPSTREAM_SECONDS = httpx.Timeout(120.0, connect=5.0)

Handler = Callable[[Request], Awaitable[Response]]


_Amount = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=2**40)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one device may ask of the server.

    Attributes:
        body_bytes: Of a request; Flower's largest object is 5 MiB.
        body_seconds: Until all of it has arrived.
        head_seconds: Until all that comes before a request's body has arrived, the first connection included.
        calls_per_second: Of a device, on average.
        calls_at_once: As many before the average counts.
        attempts_per_second: To pair, from one address, on average.
        attempts_at_once: As many before the average counts.
    """

    body_bytes: _Count = 6 * 2**20
    body_seconds: _Amount = 120.0
    head_seconds: _Amount = 10.0
    calls_per_second: _Amount = 50.0
    calls_at_once: _Count = 200
    attempts_per_second: _Amount = 0.2
    attempts_at_once: _Count = 20


class _PairRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device says to be paired; `secret` in base64."""

    secret: bytes


class _RefusalError(Exception):
    """A request that ends with a status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Front:
    """An ASGI application.

    Args:
        upstream: The SuperLink's address, `https://127.0.0.1:PORT`.
        trusted: Trusts the SuperLink's certificate.
        pairing: Knows which devices may come in, and lets in new ones.
        bundle: Files that paired devices may download, by their names in the bundle.
        limits: How much devices may ask.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        upstream: str,
        trusted: ssl.SSLContext,
        pairing: Pairing,
        bundle: Mapping[str, Path],
        limits: Limits,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = httpx.AsyncClient(
            base_url=upstream, verify=trusted, timeout=_UPSTREAM_SECONDS, trust_env=False, follow_redirects=False
        )
        self._pairing, self._limits, self._now = pairing, limits, now
        self._rates = RateLimit(limits.calls_per_second, limits.calls_at_once)
        self._strangers = RateLimit(limits.attempts_per_second, limits.attempts_at_once)
        self._routes: dict[tuple[str, bytes], Handler] = {
            ("GET", b"/health"): self._health,
            ("GET", b"/v1/edgefl/ca.pem"): self._authority,
            ("POST", b"/v1/edgefl/pair"): self._pair,
            **{("GET", _bundle_path(name)): self._file_handler(file) for name, file in bundle.items()},
            **{("POST", f"/v1/fleet/{path}".encode()): self._fleet_handler(path) for path in _FLEET_PATHS},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, in the way of ASGI."""
        if scope["type"] != "http":
            return  # no application state, and websockets are closed without a word
        request = Request(scope, receive)
        try:
            response = await self._handler(scope)(request)
        except _RefusalError as refusal:
            response = _refused(refusal)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def close(self) -> None:
        """Close the connections to the SuperLink."""
        await self._client.aclose()

    def _handler(self, scope: Scope) -> Handler:
        handler = self._routes.get((scope["method"], scope["raw_path"]))
        if handler is None or scope["query_string"]:
            raise _RefusalError(404, "there is nothing here")
        return handler

    async def _authority(self, request: Request) -> Response:
        """Tell the certificate that devices pin; they know by their token whether it is the right one."""
        self._check_stranger(request)
        return Response(self._pairing.authority_pem, media_type="application/x-pem-file")

    async def _pair(self, request: Request) -> Response:
        """Let in whoever has a token and has signed with the key to be paired."""
        self._check_stranger(request)
        public_key = self._signed_by(request)
        try:
            wanted = msgspec.json.decode(await self._body(request, _PAIRING_BYTES), type=_PairRequest)
            device = await run_in_threadpool(self._pairing.pair, wanted.secret, public_key)
        except msgspec.DecodeError as error:
            raise _RefusalError(400, f"this is no request to be paired: {error}") from error
        except TokenError as error:
            raise _RefusalError(403, str(error)) from error
        except UnreachableError as error:
            raise _RefusalError(503, "the server is starting or restarting; try again") from error
        return JSONResponse({"name": device.name})

    async def _health(self, _request: Request) -> Response:
        answer = await self._ask("GET", "/health", b"", {})
        return Response(status_code=answer.status_code)

    def _file_handler(self, file: Path) -> Handler:
        async def send_file(request: Request) -> Response:
            self._check_sender(request)
            return FileResponse(file, media_type="application/octet-stream")

        return send_file

    def _fleet_handler(self, path: str) -> Handler:
        async def pass_on(request: Request) -> Response:
            self._check_sender(request)
            body = await self._body(request, self._limits.body_bytes)
            headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
            answer = await self._ask("POST", f"/v1/fleet/{path}", body, headers)
            kept = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
            return Response(answer.content, answer.status_code, kept)

        return pass_on

    def _check_stranger(self, request: Request) -> None:
        if not self._strangers.admits(request.scope["client"][0], time.monotonic()):
            raise _RefusalError(503, "too many attempts from this address; wait a minute")

    def _signed_by(self, request: Request) -> bytes:
        # Of a header that comes twice Flower and we might each believe another one.
        names = [name for name, _ in request.scope["headers"] if name.decode("latin-1") in _PASSED_ON]
        if len(names) != len(set(names)):
            raise _RefusalError(400, "a header comes twice")
        try:
            return sender(request.headers, self._now)
        except AuthError as error:
            raise _RefusalError(401, str(error)) from error

    def _check_sender(self, request: Request) -> None:
        public_key = self._signed_by(request)
        device = self._pairing.device_of(public_key)
        if device is None:
            raise _RefusalError(412, "this device is not paired with the server; ask its operator for a token")
        if device.revoked_at is not None:
            raise _RefusalError(412, "the operator has revoked this device")
        if not self._rates.admits(public_key, time.monotonic()):
            # Clients, Flower's own among them, wait after a 503 and come again.
            raise _RefusalError(503, "more calls than the server takes from one device; slow down")

    async def _body(self, request: Request, most_bytes: int) -> bytes:
        limits, parts, size = self._limits, list[bytes](), 0
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > most_bytes:
                        raise _RefusalError(413, f"a request may have {most_bytes} bytes; send smaller objects")
                    parts.append(part)
        except TimeoutError as error:
            raise _RefusalError(408, f"the request did not arrive within {limits.body_seconds:g} s") from error
        return b"".join(parts)

    async def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        try:
            return await self._client.request(method, path, content=body, headers=headers)
        except httpx.HTTPError as error:
            logger.warning("the SuperLink does not answer %s: %s", path, error)
            raise _RefusalError(502, "the server is starting or restarting; try again") from error


def _bundle_path(name: str) -> bytes:
    return f"/v1/edgefl/bundle/{quote(name)}".encode()


def _refused(refusal: _RefusalError) -> Response:
    # A body that is still on its way would be read as the next request.
    headers = {"content-type": "application/json", "connection": "close"}
    return Response(json.dumps({"detail": refusal.detail}), refusal.status, headers)
