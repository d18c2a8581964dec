"""TLS and tokens of the service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from edgefl.errors import RefusedError, UnreachableError
from edgefl.serve.client import PredictClient
from tests.certificates import write_certificate
from tests.golden_bundle import random_samples
from tests.serve.service import Service, refused, served

TOKEN = "a token of the operator"  # noqa: S105  # of a test
SAMPLE = random_samples(1)[0][0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("access")
    write_certificate(folder)
    (folder / "token").write_text(f"{TOKEN}\n", encoding="ascii")
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    files = ["--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem", "--token-file", folder / "token"]
    with served(*files) as running:
        yield running


def test_the_right_token_over_tls_is_answered(service: Service, folder: Path) -> None:
    with PredictClient(service.address, token=TOKEN, ca=folder / "cert.pem") as client:
        assert client.predict(SAMPLE).exit_index == 2
        assert [answer.exit_index for answer in client.stream(SAMPLE)] == [0, 1, 2]


@pytest.mark.parametrize("token", [None, "", "another token", TOKEN + "x", TOKEN[:-1]])
def test_no_token_and_another_one_are_refused(service: Service, folder: Path, token: str | None) -> None:
    with PredictClient(service.address, token=token, ca=folder / "cert.pem") as client:
        with pytest.raises(RefusedError, match="UNAUTHENTICATED: no token, or not this server's"):
            client.predict(SAMPLE)
        with pytest.raises(RefusedError, match="UNAUTHENTICATED"):
            list(client.stream(SAMPLE))


def test_two_tokens_are_refused_even_if_one_is_right(service: Service, folder: Path) -> None:
    with PredictClient(service.address, token=TOKEN, ca=folder / "cert.pem") as client:
        client._metadata = (("authorization", "Bearer wrong"), *client._metadata)
        with pytest.raises(RefusedError, match="UNAUTHENTICATED"):
            client.predict(SAMPLE)


def test_health_needs_no_token_and_everything_else_does(service: Service, folder: Path) -> None:
    credentials = grpc.ssl_channel_credentials((folder / "cert.pem").read_bytes())
    with grpc.secure_channel(service.address, credentials) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as watching:
            next(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()))
        assert watching.value.code() is grpc.StatusCode.UNAUTHENTICATED
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as caught:
            list(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked])))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_without_tls_or_with_another_authority_nobody_is_reached(service: Service, tmp_path: Path) -> None:
    with PredictClient(service.address, token=TOKEN) as client, pytest.raises(UnreachableError):
        client.predict(SAMPLE)
    write_certificate(tmp_path)
    other = PredictClient(service.address, token=TOKEN, ca=tmp_path / "cert.pem")
    with other as client, pytest.raises(UnreachableError):
        client.predict(SAMPLE)


def test_with_tls_and_a_token_other_machines_may_ask(folder: Path) -> None:
    files = ["--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem", "--token-file", folder / "token"]
    with served(*files, listen="0.0.0.0:0") as running:  # what is tested
        port = running.address.rpartition(":")[2]
        with PredictClient(f"127.0.0.1:{port}", token=TOKEN, ca=folder / "cert.pem") as client:
            assert client.predict(SAMPLE).exit_index == 2


def test_clients_without_a_certificate_are_not_reached_where_they_need_one(folder: Path) -> None:
    files = ["--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem", "--client-ca", folder / "cert.pem"]
    with served(*files) as running:
        with PredictClient(running.address, ca=folder / "cert.pem") as client, pytest.raises(UnreachableError):
            client.predict(SAMPLE)
        pem = (folder / "cert.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(pem, (folder / "key.pem").read_bytes(), pem)
        with grpc.secure_channel(running.address, credentials) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        own = PredictClient(
            running.address, ca=folder / "cert.pem", certificate=folder / "cert.pem", key=folder / "key.pem"
        )
        with own as client:
            assert client.predict(SAMPLE).exit_index == 2


@pytest.mark.parametrize("token", ["", "short", "two\nlines of sixteen letters", "sechzehn Zeichen ä"])
def test_a_token_that_is_none_is_refused(tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token, encoding="utf-8")

    code, said = refused("--token-file", tmp_path / "token")

    assert code == 3
    assert TOKEN not in said
    assert "token" in said


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    write_certificate(tmp_path)

    code, said = refused(
        "--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "cert.pem", "--listen", "127.0.0.1:0"
    )

    assert code == 3
    assert "cert.pem holds no PEM private key without a password" in said
