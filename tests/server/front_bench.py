"""A front before a real SuperLink, and what devices say to it."""

from __future__ import annotations

import base64
import datetime as dt
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import urllib3

from edgefl.fleet.identity import Identity
from edgefl_server.host.authority import Authority
from edgefl_server.host.control import Control
from edgefl_server.host.devices import Registry
from edgefl_server.host.front import Front, Limits
from edgefl_server.host.front_server import FrontServer
from edgefl_server.host.pairing import Pairing
from edgefl_server.host.state import StateFolder
from edgefl_server.host.superlink import SuperLink, choose_port
from tests.golden_bundle import GOLDEN


@dataclass(frozen=True)
class FrontBench:
    """What a test needs.

    Attributes:
        folder: A folder of the test's own.
        port: The front's.
        superlink: The address behind it, `https://127.0.0.1:PORT`.
        registry: Who may come in.
        authority: Trusted by devices, PEM.
    """

    folder: Path
    port: int
    superlink: str
    registry: Registry
    authority: Path

    @property
    def url(self) -> str:
        """The front's address."""
        return f"https://127.0.0.1:{self.port}"

    @cached_property
    def _trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))

    def device(self, name: str) -> Identity:
        """Pair a device and return its key."""
        identity = Identity.load_or_create(self.folder / f"{name}.pem")
        status, said = self.pair(identity, self.registry.new_token(name, time.time(), 60.0))
        assert status == 200, said
        return identity

    def pair(self, identity: Identity, secret: bytes) -> tuple[int, str]:
        """Ask to be paired, and return the status and what is said."""
        body = json.dumps({"secret": base64.b64encode(secret).decode()})
        answer = self.pool().request("POST", f"{self.url}/v1/edgefl/pair", body=body, headers=signed(identity))
        return answer.status, answer.data.decode()

    def pool(self) -> urllib3.PoolManager:
        """Return connections that trust the server."""
        return urllib3.PoolManager(ca_certs=str(self.authority))

    @contextmanager
    def connection(self) -> Iterator[ssl.SSLSocket]:
        """Connect, to send what no library would."""
        with (
            _without_delay(self.port) as plain,
            self._trusted.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            yield connection


def _without_delay(port: int) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    # Or the request waits 40 ms for the acknowledgement of the handshake's end.
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plain


@contextmanager
def running_front(folder: Path, limits: Limits) -> Iterator[FrontBench]:
    state = StateFolder(folder)
    authority = Authority.create(folder, dt.datetime.now(dt.UTC))
    credentials = authority.server_credentials([], dt.datetime.now(dt.UTC))
    registry = Registry(state.devices)
    with SuperLink(state, choose_port(0), credentials) as superlink:
        upstream = f"https://{superlink.address}"
        trusted = ssl.create_default_context(cafile=str(credentials.authority))
        pairing = Pairing(
            registry, lambda: Control(superlink.address, credentials.authority), credentials.authority.read_text()
        )
        files = {"manifest.json": GOLDEN / "manifest.json", "backbone.safetensors": GOLDEN / "backbone.safetensors"}
        front = Front(upstream, trusted, pairing, files, limits)
        with FrontServer(front, "127.0.0.1", 0, credentials, limits) as server:
            yield FrontBench(folder, server.port, upstream, registry, credentials.authority)


def signed(identity: Identity, *, seconds_ago: float = 0.0) -> dict[str, str]:
    """Return the headers by which a device says who it is."""
    time_ = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds_ago)
    timestamp = time_.isoformat(timespec="milliseconds")
    return {
        "content-type": "application/protobuf",
        "flwr-public-key": base64.b64encode(identity.public_key_pem).decode(),
        "flwr-timestamp": timestamp,
        "flwr-signature": base64.b64encode(identity.sign(timestamp)).decode(),
    }


def response_to(connection: ssl.SSLSocket, request: bytes) -> bytes:
    """Send bytes and return all that comes back until the other side closes."""
    connection.sendall(request)
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)
