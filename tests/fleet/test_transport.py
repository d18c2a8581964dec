"""Calls that outlive bad networks, restarted servers and wrong clocks (edgefl/fleet/transport.py)."""

from __future__ import annotations

import base64
import datetime as dt
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgefl.errors import BadInputError, UnreachableError
from edgefl.fleet import fleet_pb2
from edgefl.fleet.calls import DEACTIVATE_NODE, REGISTER_NODE
from edgefl.fleet.identity import Identity
from edgefl.fleet.status import (
    NotActiveError,
    RunOverError,
    ServerError,
    StatusError,
    StoppedError,
    UnauthorizedError,
)
from edgefl.fleet.transport import Transport
from tests.certificates import write_certificate
from tests.fleet.http_server import Answer, Asked, HttpServer, free_port

IDENTITY = Identity(ec.generate_private_key(ec.SECP384R1()))
REQUEST = fleet_pb2.RegisterNodeFleetRequest(public_key=b"key")
NODE_7 = Answer(body=fleet_pb2.RegisterNodeFleetResponse(node_id=7).SerializeToString())


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def in_turn(*answers: Answer) -> Callable[[Asked], Answer]:
    """Give each request the next answer, and the last one for ever."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def signed_within(window_seconds: tuple[float, float], clock_seconds: float) -> Callable[[Asked], Answer]:
    """Answer like a SuperLink whose clock is off: 401 unless the timestamp is in the window before its time."""

    def decide(asked: Asked) -> Answer:
        signed_at = dt.datetime.fromisoformat(asked.headers["flwr-timestamp"]).timestamp()
        age = time.time() + clock_seconds - signed_at
        is_fresh = window_seconds[0] < age < window_seconds[1]
        return Answer(
            status=200 if is_fresh else 401, body=NODE_7.body if is_fresh else b"", clock_seconds=clock_seconds
        )

    return decide


def make_transport(url: str, stop: threading.Event, connect_seconds: float | None = 20.0) -> Transport:
    return Transport(url, IDENTITY, stop=stop, connect_seconds=connect_seconds)


def test_a_call_is_signed_and_its_bytes_are_counted(stop: threading.Event) -> None:
    with HttpServer(in_turn(NODE_7)) as server:
        transport = make_transport(server.url, stop)
        assert transport.call(REGISTER_NODE, REQUEST).node_id == 7
        transport.close()
    (asked,) = server.asked
    assert asked.path == "register-node"
    assert fleet_pb2.RegisterNodeFleetRequest.FromString(asked.body) == REQUEST
    public_key_pem = base64.b64decode(asked.headers["flwr-public-key"], validate=True)
    assert public_key_pem == IDENTITY.public_key_pem
    key = serialization.load_pem_public_key(public_key_pem)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    timestamp = asked.headers["flwr-timestamp"]
    key.verify(base64.b64decode(asked.headers["flwr-signature"]), timestamp.encode(), ec.ECDSA(hashes.SHA256()))
    assert dt.datetime.fromisoformat(timestamp).tzinfo is not None, "the server refuses a time without a zone"
    # Field 1 with 3 bytes up: tag, length, k, e, y; field 1 with the number 7 down: tag, 7.
    assert (transport.bytes_up, transport.bytes_down) == (5, 2)


@pytest.mark.parametrize("clock_seconds", [-3600.0, 3600.0])
def test_a_clock_that_is_an_hour_off_is_corrected_by_the_servers_date(
    stop: threading.Event, clock_seconds: float
) -> None:
    # The window of flwr's node_auth: 5 s ahead, 305 s behind.
    with HttpServer(signed_within((-5.0, 305.0), clock_seconds)) as server:
        transport = make_transport(server.url, stop)
        assert transport.call(REGISTER_NODE, REQUEST).node_id == 7
        assert transport.call(REGISTER_NODE, REQUEST).node_id == 7
        transport.close()
    assert len(server.asked) == 3, "one refusal, then the first call again, then the second at once"
    assert transport.clock.now() - time.time() == pytest.approx(clock_seconds, abs=2)


def test_a_refusal_with_the_right_time_is_not_about_the_clock_and_is_final(stop: threading.Event) -> None:
    with HttpServer(in_turn(Answer(status=401))) as server:
        transport = make_transport(server.url, stop)
        with pytest.raises(UnauthorizedError, match=r"register-node at http://127\.0\.0\.1"):
            transport.call(REGISTER_NODE, REQUEST)
        transport.close()
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_without_a_server_behind_it_is_asked_again(stop: threading.Event, status: int) -> None:
    with HttpServer(in_turn(Answer(status=status), NODE_7)) as server:
        transport = make_transport(server.url, stop)
        assert transport.call(REGISTER_NODE, REQUEST).node_id == 7
        transport.close()
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "broken",
    [
        Answer(body=bytes(100), cut_bytes=1),
        Answer(body=b"\xff\xff"),
        Answer(body=b"<html>log in first</html>", headers={"content-type": "text/html; charset=utf-8"}),
        Answer(status=302, headers={"location": "http://127.0.0.1:9/"}),
    ],
    ids=["an answer cut short", "no protobuf", "the page of a captive portal", "its redirection"],
)
def test_an_answer_that_no_flower_server_gave_is_asked_again(stop: threading.Event, broken: Answer) -> None:
    with HttpServer(in_turn(broken, NODE_7)) as server:
        transport = make_transport(server.url, stop)
        assert transport.call(REGISTER_NODE, REQUEST).node_id == 7
        transport.close()
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("status", "kind"), [(403, RunOverError), (409, NotActiveError), (412, NotActiveError), (400, StatusError)]
)
def test_a_refusal_becomes_its_own_error_with_the_servers_reason(
    stop: threading.Event, status: int, kind: type[StatusError]
) -> None:
    with HttpServer(in_turn(Answer(status=status, body=b'{"code": 1, "detail": "not\\ntoday"}'))) as server:
        transport = make_transport(server.url, stop)
        with pytest.raises(StatusError, match=rf"HTTP {status}, 'not\\ntoday'") as caught:
            transport.call(DEACTIVATE_NODE, fleet_pb2.DeactivateNodeRequest(node_id=7))
        transport.close()
    assert type(caught.value) is kind
    assert caught.value.exit_code == 4


def test_a_servers_endless_reason_does_not_fill_the_log(stop: threading.Event) -> None:
    with HttpServer(in_turn(Answer(status=400, body=b'{"detail": "' + b"x" * 100_000 + b'"}'))) as server:
        transport = make_transport(server.url, stop)
        with pytest.raises(StatusError, match=r"'x{200}'") as caught:
            transport.call(REGISTER_NODE, REQUEST)
        transport.close()
    assert len(str(caught.value)) < 400


def test_a_failing_server_is_asked_five_times(stop: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefl.fleet.transport._FIRST_DELAY_SECONDS", 0.001)
    with HttpServer(in_turn(Answer(status=500))) as server:
        transport = make_transport(server.url, stop)
        with pytest.raises(ServerError, match="HTTP 500"):
            transport.call(REGISTER_NODE, REQUEST)
        transport.close()
    assert len(server.asked) == 5


def test_before_the_first_answer_a_call_gives_up_and_says_what_to_do(stop: threading.Event) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(UnreachableError, match=rf"{url} .*Connection refused.*--wait") as caught:
        make_transport(url, stop, connect_seconds=0.7).call(REGISTER_NODE, REQUEST)
    assert caught.value.exit_code == 5
    assert 0.7 <= time.monotonic() - began < 10


@pytest.mark.parametrize("had_contact", [True, False], ids=["after the first answer", "told to wait for ever"])
def test_a_server_that_comes_back_is_found(stop: threading.Event, *, had_contact: bool) -> None:
    with HttpServer(in_turn(NODE_7)) as server:
        transport = make_transport(server.url, stop, connect_seconds=0.0 if had_contact else None)
        if had_contact:
            transport.call(REGISTER_NODE, REQUEST)
    transport.close()
    answers: list[int] = []
    caller = threading.Thread(target=lambda: answers.append(transport.call(REGISTER_NODE, REQUEST).node_id))
    caller.start()
    with HttpServer(in_turn(NODE_7), port=server.port):
        caller.join(20)
        transport.close()
    assert answers == [7]


def test_a_wait_ends_at_once_when_told_to_stop(stop: threading.Event) -> None:
    transport = make_transport(f"http://127.0.0.1:{free_port()}", stop, connect_seconds=None)
    raised: list[str] = []

    def call() -> None:
        try:
            transport.call(REGISTER_NODE, REQUEST)
        except StoppedError as error:
            raised.append(str(error))

    caller = threading.Thread(target=call)
    caller.start()
    stop.set()
    caller.join(5)
    assert len(raised) == 1


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:99999", "http://a/?b", "x y"])
def test_what_is_no_address_of_a_server_is_refused(stop: threading.Event, url: str) -> None:
    with pytest.raises(BadInputError, match="http://HOST:PORT"):
        make_transport(url, stop)


def test_https_is_spoken_with_servers_whose_authority_is_trusted_and_no_others(
    stop: threading.Event, tmp_path: Path
) -> None:
    certificate, context = self_signed(tmp_path)
    with HttpServer(in_turn(NODE_7), tls=context) as server:
        trusting = Transport(server.url, IDENTITY, stop=stop, ca_file=certificate)
        assert trusting.call(REGISTER_NODE, REQUEST).node_id == 7
        trusting.close()
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="certificate is not trusted"):
            Transport(server.url, IDENTITY, stop=stop, connect_seconds=60).call(REGISTER_NODE, REQUEST)
        assert time.monotonic() - began < 30, "waiting does not make a certificate better"
    with pytest.raises(BadInputError, match="no file of certificates"):
        Transport(server.url, IDENTITY, stop=stop, ca_file=tmp_path / "missing.pem")


def self_signed(folder: Path) -> tuple[Path, ssl.SSLContext]:
    certificate, key = write_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context
