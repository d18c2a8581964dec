"""The gRPC server around the service: where it listens, who may ask, how much, and how it ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edgefl.errors import BadInputError, RefusedError, StorageError
from edgefl.serve import predict_pb2 as pb
from edgefl.serve.predict_pb2_grpc import AnytimeServicer, add_AnytimeServicer_to_server
from edgefl.serve.token import TokenCheck

__all__ = ["Access", "Limits", "check_access", "run_server"]

_SERVICE = pb.DESCRIPTOR.services_by_name["Anytime"].full_name
_LOOPBACK = ("127.0.0.1:", "localhost:", "[::1]:", "unix:")
_GRACE_SECONDS = 5.0
_WATCH_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask.

    Attributes:
        listen: Host and port, 0 for any free one; or `unix:PATH`.
        certificate: TLS certificate chain, PEM; None for no TLS.
        key: Its private key.
        client_ca: Authority that clients' certificates must be from; None asks for none.
        token: Bearer token that every call but the health check needs; None for none.
    """

    listen: str
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may be asked.

    Attributes:
        message_bytes: Of one request; larger ones end with RESOURCE_EXHAUSTED.
        pixels: Of an image; preparing one takes some 70 bytes for each.
        requests: At once, those that wait among them; further ones end with RESOURCE_EXHAUSTED.
    """

    message_bytes: int
    pixels: int
    requests: int


async def run_server(
    servicer: AnytimeServicer,
    access: Access,
    limits: Limits,
    *,
    started: Callable[[str], None],
    refused: Callable[[str], None],
    watch: Callable[[], None],
) -> None:
    """Serve until SIGTERM or ctrl-C; then let running calls end, for some seconds.

    Args:
        servicer: The service.
        access: Who may ask.
        limits: How much.
        started: Called with the address once it can be reached.
        refused: Called for each call without the token, with the name of the status.
        watch: Called every second, in a thread.

    Raises:
        RefusedError: If it cannot listen there.
        StorageError: If a certificate cannot be read.
    """
    server = grpc.aio.server(
        interceptors=[TokenCheck(access.token, refused)] if access.token is not None else [],
        options=[("grpc.max_receive_message_length", limits.message_bytes), ("grpc.so_reuseport", 0)],
    )
    add_AnytimeServicer_to_server(servicer, server)
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    reflection.enable_server_reflection([_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    address = _bind(server, access)
    await server.start()
    for name in ("", _SERVICE):
        await state.set(name, health_pb2.HealthCheckResponse.SERVING)
    started(address)
    await _until_stopped(watch)
    await state.enter_graceful_shutdown()
    await server.stop(_GRACE_SECONDS)


async def _until_stopped(watch: Callable[[], None]) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    while not stop.is_set():
        await asyncio.to_thread(watch)
        try:
            await asyncio.wait_for(stop.wait(), _WATCH_SECONDS)
        except TimeoutError:
            continue


def check_access(access: Access) -> None:
    """Refuse what a server could not be started with.

    Raises:
        RefusedError: If it would be reachable from other machines without TLS and a token.
        BadInputError: If a certificate or a key is none.
        StorageError: If one cannot be read.
    """
    if not access.listen.startswith(_LOOPBACK) and (access.certificate is None or access.token is None):
        raise RefusedError(
            f"--listen {access.listen} can be reached from other machines; give --tls-cert, --tls-key and "
            "--token-file, or listen on 127.0.0.1"
        )
    for path in (access.certificate, access.client_ca):
        if path is not None:
            _check_pem(path, load_pem_x509_certificates, "certificate")
    if access.key is not None:
        _check_pem(access.key, lambda pem: load_pem_private_key(pem, None), "private key without a password")


def _check_pem(path: Path, load: Callable[[bytes], object], what: str) -> None:
    pem = _read(path)
    try:
        load(pem)
    except (ValueError, TypeError) as error:
        raise BadInputError(f"{path} holds no PEM {what}: {error}; name a file that does") from error


def _bind(server: grpc.aio.Server, access: Access) -> str:
    credentials = _credentials(access)
    try:
        if credentials is None:
            port = server.add_insecure_port(access.listen)
        else:
            port = server.add_secure_port(access.listen, credentials)
    except RuntimeError as error:
        raise RefusedError(f"cannot listen on {access.listen}: {error}; is it taken, or its folder missing?") from error
    host = access.listen.rpartition(":")[0]
    return access.listen if access.listen.startswith("unix:") else f"{host}:{port}"


def _credentials(access: Access) -> grpc.ServerCredentials | None:
    if access.certificate is None or access.key is None:
        return None
    authority = _read(access.client_ca) if access.client_ca is not None else None
    return grpc.ssl_server_credentials(
        [(_read(access.key), _read(access.certificate))], authority, require_client_auth=authority is not None
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
