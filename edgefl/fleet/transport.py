"""Signed protobuf calls over HTTP that outlive bad networks, restarted servers and wrong clocks."""

from __future__ import annotations

import base64
import datetime as dt
import http
import io
import itertools
import logging
import random
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import urllib3
from google.protobuf.message import DecodeError

from edgefl.errors import BadInputError, UnreachableError
from edgefl.fleet.calls import Call, Request, Response
from edgefl.fleet.clock import ServerClock
from edgefl.fleet.identity import Identity
from edgefl.fleet.status import ServerError, StoppedError, status_error
from edgefl.version import __version__

__all__ = ["Transport"]

logger = logging.getLogger(__name__)

_MEDIA_TYPE = "application/protobuf"
# The server's own chunks are 5 MiB, and a pulled message is a tree of 64-byte ids.
_MAX_RESPONSE_BYTES = 64 * 1024 * 1024
_TIMEOUT = urllib3.Timeout(connect=10.0, read=60.0)
_LARGEST_DELAY_SECONDS = 20.0
_FIRST_DELAY_SECONDS = 0.5
_SERVER_ERROR_ATTEMPTS = 5
_NOBODY_BEHIND_THE_PROXY = {
    http.HTTPStatus.BAD_GATEWAY,
    http.HTTPStatus.SERVICE_UNAVAILABLE,
    http.HTTPStatus.GATEWAY_TIMEOUT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    media_type: str
    body: bytes
    signed_with_skew_seconds: float


class Transport:
    """Calls to one server; threads may share it.

    Attributes:
        url: The server's address.
        identity: The device's key.
        stop: When set, waits end and calls that would be tried again raise StoppedError.
        clock: The server's time.
        bytes_up: Bytes of request bodies sent so far.
        bytes_down: Bytes of response bodies received so far.
    """

    def __init__(
        self,
        url: str,
        identity: Identity,
        *,
        stop: threading.Event,
        ca_file: Path | None = None,
        connect_seconds: float | None = 30.0,
    ) -> None:
        """Prepare calls; nothing is sent yet.

        Args:
            url: `http://HOST:PORT` or `https://HOST:PORT`.
            identity: The device's key.
            stop: Set it to interrupt every wait.
            ca_file: Certificates, in PEM form, of the authorities to trust instead of the system's.
            connect_seconds: How long to try before the server has answered once; None for as long as it takes.
                After the first answer calls are always repeated for as long as it takes.

        Raises:
            BadInputError: If the URL or the file of certificates cannot be used.
        """
        self.url = _checked_url(url)
        self.identity = identity
        self.stop = stop
        self.clock = ServerClock()
        self._connect_seconds = connect_seconds
        if ca_file is not None and not ca_file.is_file():
            raise BadInputError(f"{ca_file} is no file of certificates; pass the server's CA in PEM form")
        self._pool = urllib3.PoolManager(maxsize=4, ca_certs=str(ca_file) if ca_file else None)
        self._key_header = base64.b64encode(identity.public_key_pem).decode()
        self._had_contact = False
        self._bytes_lock = threading.Lock()
        self.bytes_up = 0
        self.bytes_down = 0

    def call(self, call: Call[Request, Response], request: Request) -> Response:
        """Call the server, again and again while it cannot be reached.

        Raises:
            UnreachableError: If it never answered within `connect_seconds`.
            StoppedError: If `stop` was set while waiting for the next attempt.
            StatusError: If it answered that it will not do it.
        """
        began = time.monotonic()
        delays = _delays()
        server_errors = 0
        while True:
            delay_seconds = next(delays)
            try:
                return self.call_once(call, request)
            except UnreachableError as error:
                delay_seconds = min(delay_seconds, self._patience_seconds(error, began))
                logger.info("%s; next attempt in %.1f s", error, delay_seconds)
            except ServerError:
                server_errors += 1
                if server_errors == _SERVER_ERROR_ATTEMPTS:
                    raise
            if self.stop.wait(delay_seconds):
                raise StoppedError(f"stopped while {self.url} could not be reached")

    def call_once(self, call: Call[Request, Response], request: Request) -> Response:
        """Call the server without repeating the call, except to correct a wrong clock.

        Raises:
            UnreachableError: If nobody, or no Flower server, answers.
            StatusError: If it answered that it will not do it.
        """
        body = request.SerializeToString()
        answer = self._post(call.path, body)
        if answer.status == http.HTTPStatus.UNAUTHORIZED and self.clock.skew_seconds != answer.signed_with_skew_seconds:
            answer = self._post(call.path, body)
        if answer.status in _NOBODY_BEHIND_THE_PROXY:
            raise self._unreachable(f"HTTP {answer.status}")
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            self._had_contact = True
            raise status_error(answer.status, answer.body, f"{call.path} at {self.url}")
        if answer.status != http.HTTPStatus.OK or answer.media_type != _MEDIA_TYPE:
            raise self._unreachable(f"HTTP {answer.status} with {answer.media_type or 'no type'}: no Flower server")
        try:
            response = call.response.FromString(answer.body)
        except DecodeError as error:
            raise self._unreachable(f"an answer that is no {call.response.__name__}") from error
        self._had_contact = True
        return response

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._pool.clear()

    def _post(self, path: str, body: bytes) -> _Answer:
        skew_seconds = self.clock.skew_seconds
        signed_at = dt.datetime.fromtimestamp(self.clock.now(), dt.UTC).isoformat(timespec="milliseconds")
        try:
            response = self._pool.request(
                "POST",
                f"{self.url}/v1/fleet/{path}",
                # As a stream the timeout holds for each block, as bytes it would for the whole body: too
                # short for 1 MiB on a slow line.
                body=io.BytesIO(body),
                headers=self._headers(signed_at, len(body)),
                timeout=_TIMEOUT,
                # Neither repeats nor redirections: a signed call goes to this server or nowhere.
                retries=False,
                preload_content=False,
            )
            self.clock.learn(response.headers.get("date", ""))
            received = _read_bounded(response)
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(_reason(error)) from error
        with self._bytes_lock:
            self.bytes_up += len(body)
            self.bytes_down += len(received)
        media_type = response.headers.get("content-type", "").partition(";")[0]
        return _Answer(
            status=response.status, media_type=media_type, body=received, signed_with_skew_seconds=skew_seconds
        )

    def _headers(self, timestamp: str, body_bytes: int) -> dict[str, str]:
        return {
            "accept": _MEDIA_TYPE,
            "accept-encoding": "identity",
            "content-length": str(body_bytes),
            "content-type": _MEDIA_TYPE,
            "user-agent": f"edgefl/{__version__}",
            "flwr-public-key": self._key_header,
            "flwr-signature": base64.b64encode(self.identity.sign(timestamp)).decode(),
            "flwr-timestamp": timestamp,
        }

    def _unreachable(self, reason: str) -> UnreachableError:
        advice = "it is asked again" if self._had_contact else "start it, or pass --wait to wait for it"
        return UnreachableError(f"no Flower server answers at {self.url} ({reason}); {advice}")

    def _patience_seconds(self, error: UnreachableError, began: float) -> float:
        """Return how long to go on trying, or give up."""
        if self._had_contact or self._connect_seconds is None:
            return _LARGEST_DELAY_SECONDS
        left = began + self._connect_seconds - time.monotonic()
        if left <= 0 or _is_untrusted(error.__cause__):
            raise error
        return left


def _checked_url(url: str) -> str:
    try:
        parsed = urllib3.util.parse_url(url)
    except urllib3.exceptions.LocationParseError as error:
        raise BadInputError(f"{url!r} is no URL; write http://HOST:PORT or https://HOST:PORT") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.query or parsed.fragment:
        raise BadInputError(f"{url!r} is no server's address; write http://HOST:PORT or https://HOST:PORT")
    return url.rstrip("/")


def _delays() -> Iterator[float]:
    for attempt in itertools.count():
        longest = min(_LARGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(attempt, 10))
        # Jitter keeps a fleet from knocking in step after a server's restart.
        yield longest * random.uniform(0.5, 1.0)  # noqa: S311  no secret


def _read_bounded(response: urllib3.BaseHTTPResponse) -> bytes:
    body = response.read(_MAX_RESPONSE_BYTES + 1)
    if len(body) > _MAX_RESPONSE_BYTES:
        response.close()
        raise urllib3.exceptions.ProtocolError(f"an answer of more than {_MAX_RESPONSE_BYTES} bytes")
    response.release_conn()
    return body


def _reason(error: urllib3.exceptions.HTTPError) -> str:
    if _is_untrusted(error):
        return "its certificate is not trusted: pass the CA that signed it"
    return str(error).rpartition(": ")[2] or type(error).__name__


def _is_untrusted(error: BaseException | None) -> bool:
    return isinstance(error, urllib3.exceptions.SSLError) and isinstance(error.args[0], ssl.SSLCertVerificationError)
