"""Devices reach the Fleet API through the front, and strangers nothing (edgefl_server/host/front.py)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefl.fleet.identity import Identity
from edgefl.fleet.journal import Journal
from edgefl.fleet.node import Node
from edgefl.fleet.pairing_token import PairingToken
from edgefl.fleet.status import NotActiveError
from edgefl.fleet.transport import Transport
from edgefl_server.host.front import Limits
from tests.golden_bundle import GOLDEN
from tests.server.front_bench import FrontBench, response_to, running_front, signed

FLEET = "/v1/fleet/pull-messages"
# So short that a test can wait for it, and longer than a busy machine takes for a small request.
LIMITS = Limits(body_bytes=10_000, body_seconds=1.0, head_seconds=1.0, attempts_at_once=1000)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontBench]:
    with running_front(tmp_path_factory.mktemp("front"), LIMITS) as bench:
        yield bench


@pytest.fixture(scope="module")
def device(front: FrontBench) -> Identity:
    return front.device("pi")


def transport(front: FrontBench, identity: Identity) -> Transport:
    return Transport(front.url, identity, stop=threading.Event(), ca_file=front.authority)


def status_of(front: FrontBench, identity: Identity, path: str = FLEET, **headers: str) -> tuple[int, str]:
    answer = front.pool().request("POST", front.url + path, headers=signed(identity) | headers, retries=False)
    return answer.status, answer.data.decode(errors="replace")


def test_a_paired_device_joins_and_leaves_through_the_front(front: FrontBench, tmp_path: Path) -> None:
    identity = front.device("joins")
    with Node(transport(front, identity), Journal(tmp_path)) as node:
        assert node.node_id != 0


def test_a_device_that_was_not_paired_is_told_so(front: FrontBench, tmp_path: Path) -> None:
    stranger = Identity.load_or_create(tmp_path / "key.pem")
    with pytest.raises(NotActiveError, match="its key is not registered"):
        Node(transport(front, stranger), Journal(tmp_path)).join()
    assert status_of(front, stranger) == (412, json.dumps(
        {"detail": "this device is not paired with the server; ask its operator for a token"}
    ))  # fmt: skip


def test_a_revoked_device_is_refused_from_the_next_request_on(front: FrontBench) -> None:
    identity = front.device("stolen")
    before, _ = status_of(front, identity)
    known = front.registry.device_of(identity.public_key_pem)
    assert known is not None
    front.registry.revoke(known.number, time.time())

    assert before != 412
    assert status_of(front, identity) == (412, '{"detail": "the operator has revoked this device"}')


def test_a_device_is_paired_once_by_a_token_and_may_say_it_again(front: FrontBench, tmp_path: Path) -> None:
    secret = front.registry.new_token("hall", time.time(), 60.0)
    mine, thief = (Identity.load_or_create(tmp_path / name) for name in ("mine.pem", "thief.pem"))

    assert front.pair(mine, secret) == (200, '{"name":"hall"}')
    assert front.pair(mine, secret) == (200, '{"name":"hall"}')
    status, said = front.pair(thief, secret)
    assert (status, "used before, by another device" in said) == (403, True)
    assert status_of(front, thief)[0] == 412


def test_what_is_no_request_to_be_paired_is_refused(front: FrontBench, device: Identity) -> None:
    for body, status in ((b"{}", 400), (b"\xff", 400), (b'{"secret": 1}', 400), (bytes(2000), 413)):
        url = f"{front.url}/v1/edgefl/pair"
        assert front.pool().request("POST", url, body=body, headers=signed(device), retries=False).status == status
    assert front.pool().request("POST", f"{front.url}/v1/edgefl/pair", body=b"{}", retries=False).status == 401


def test_a_device_finds_the_server_by_its_token(front: FrontBench) -> None:
    token = PairingToken.of(bytes(16), front.authority.read_text())
    assert token.names(front.pool().request("GET", f"{front.url}/v1/edgefl/ca.pem").data.decode())


def test_a_paired_device_downloads_the_bundle_from_where_it_left_off(
    front: FrontBench, device: Identity, tmp_path: Path
) -> None:
    url, whole = f"{front.url}/v1/edgefl/bundle/backbone.safetensors", (GOLDEN / "backbone.safetensors").read_bytes()

    first = front.pool().request("GET", url, headers=signed(device))
    rest = front.pool().request(
        "GET", url, headers=signed(device) | {"range": "bytes=100-", "if-range": first.headers["etag"]}
    )
    stranger = front.pool().request("GET", url, headers=signed(Identity.load_or_create(tmp_path / "key.pem")))
    unsigned = front.pool().request("GET", url)

    assert (first.status, first.data) == (200, whole)
    assert (rest.status, rest.data) == (206, whole[100:])
    assert (stranger.status, unsigned.status) == (412, 401)


@pytest.mark.parametrize("name", ["", "other.bin", "../front.py", "%2e%2e/devices.db", "manifest.json/", "devices.db"])
def test_nothing_beside_the_bundle_can_be_downloaded(front: FrontBench, device: Identity, name: str) -> None:
    with front.connection() as connection:
        head = "".join(f"{key}: {value}\r\n" for key, value in signed(device).items())
        request = f"GET /v1/edgefl/bundle/{name} HTTP/1.1\r\nhost: a\r\n{head}\r\n"
        assert response_to(connection, request.encode()).startswith(b"HTTP/1.1 404")


def test_the_superlink_s_health_is_the_front_s(front: FrontBench) -> None:
    assert front.pool().request("GET", f"{front.url}/health").status == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"flwr-signature": "AAAA"}, 401),
        ({"flwr-signature": "not base64"}, 401),
        ({"flwr-timestamp": "2026-01-01T00:00:00"}, 401),
        ({"flwr-timestamp": "yesterday"}, 401),
        ({"flwr-public-key": "AAAA"}, 401),
        ({"flwr-public-key": "é"}, 401),
    ],
)
def test_what_is_not_signed_by_a_device_is_refused(
    front: FrontBench, device: Identity, change: dict[str, str], status: int
) -> None:
    assert status_of(front, device, **change)[0] == status


@pytest.mark.parametrize(("seconds_ago", "status"), [(-60.0, 401), (400.0, 401)])
def test_a_signature_of_another_time_is_refused(
    front: FrontBench, device: Identity, seconds_ago: float, status: int
) -> None:
    headers = signed(device, seconds_ago=seconds_ago)
    answer = front.pool().request("POST", front.url + FLEET, headers=headers, retries=False)
    assert answer.status == status
    assert "date" in answer.headers  # by which a device with a wrong clock finds out


def test_a_body_above_the_limit_is_refused(front: FrontBench, device: Identity) -> None:
    headers = signed(device)
    answer = front.pool().request("POST", front.url + FLEET, body=bytes(10_001), headers=headers, retries=False)
    assert answer.status == 413


def test_a_body_that_never_ends_is_given_up_and_others_are_served_meanwhile(
    front: FrontBench, device: Identity
) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in signed(device).items())
    request = f"POST {FLEET} HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\n{head}\r\nhalf".encode()
    with front.connection() as slow:
        slow.sendall(request)
        assert front.pool().request("GET", f"{front.url}/health").status == 200
        assert response_to(slow, b"").startswith(b"HTTP/1.1 408")


def test_a_header_that_comes_twice_is_refused(front: FrontBench, device: Identity) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in signed(device).items())
    twice = f"POST {FLEET} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n{head}flwr-timestamp: later\r\n\r\n"
    with front.connection() as connection:
        assert response_to(connection, twice.encode()).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "beginning", [b"", b"POST /v1/fleet/pull-mess", f"GET /health HTTP/1.1\r\nx: {'y' * 20_000}".encode()]
)
def test_a_head_that_never_ends_is_given_up(front: FrontBench, beginning: bytes) -> None:
    with front.connection() as connection:
        assert response_to(connection, beginning)[:12] in {b"", b"HTTP/1.1 400"}


def test_a_head_that_never_ends_is_given_up_after_a_request_that_did(front: FrontBench) -> None:
    with front.connection() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert response_to(connection, b"GET /hea") == b""
