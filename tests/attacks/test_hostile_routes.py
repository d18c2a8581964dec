"""Nothing of Flower but the Fleet API can be reached from outside, whatever a paired device asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from edgefl.fleet.identity import Identity
from edgefl_server.host.front import Limits
from tests.server.front_bench import FrontBench, response_to, running_front, signed

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "post", "X")
OPEN = {("GET", "/health")}


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontBench]:
    with running_front(tmp_path_factory.mktemp("front"), Limits(calls_per_second=1e6, calls_at_once=10**6)) as bench:
        yield bench


@pytest.fixture(scope="module")
def device(front: FrontBench) -> Identity:
    return front.device("pi")


@pytest.fixture(scope="module")
def routes(front: FrontBench) -> list[str]:
    """Every path that the running SuperLink describes, and where it describes them."""
    described = json.loads(front.pool().request("GET", f"{front.superlink}/openapi.json").data)["paths"]
    assert {"/v1/control/start-run", "/v1/runtime/acquire-task", "/v1/fleet/pull-messages"} <= described.keys()
    return [*described, "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc", "/", ""]


def disguised(path: str) -> set[str]:
    """Return other spellings that some server takes for the same path, or for one beside it."""
    first = path[1:2]
    return {
        f"/{path}", f"{path}/", f"{path}//", f"/.{path}", f"/x/..{path}", f"/x/%2e%2e{path}", path.upper(),
        path.replace("/", "//"), path.replace("/", "%2f"), path.replace("/", "\\"),
        path.replace(first, f"%{ord(first):02x}", 1) if first else "/%00", f"{path}?a=b", f"{path};a",
        f"{path}#a", f"{path}%20", f"{path}%00", f"/v1/fleet/..{path}", f"/v1/fleet/pull-messages/../../..{path}",
        f"/health/..{path}", f"/health{path}", f"https://127.0.0.1{path}", f"//127.0.0.1{path}", f"{path}%3f",
    }  # fmt: skip


def signature(device: Identity) -> str:
    """Return the lines of a request's head by which a device says who it is."""
    return "".join(f"{name}: {value}\r\n" for name, value in signed(device).items())


def answer_to(front: FrontBench, signed_by: str, verb: str, path: str, framing: bytes) -> tuple[int, bytes]:
    """Ask, byte for byte as written here; return status and body."""
    with front.connection() as connection:
        request = f"{verb} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{signed_by}".encode() + framing
        answer = response_to(connection, request)
    status = re.match(rb"HTTP/1.1 (\d+)", answer)
    return int(status[1]) if status else 0, answer.partition(b"\r\n\r\n")[2]


def is_refused(verb: str, answer: tuple[int, bytes]) -> bool:
    """Whether the front itself has said no; a malformed request line it answers as any HTTP server does."""
    status, body = answer
    return status in {0, HTTPStatus.BAD_REQUEST} or (
        status == HTTPStatus.NOT_FOUND and (verb == "HEAD" or body == b'{"detail": "there is nothing here"}')
    )


EMPTY, CHUNKED = b"content-length: 0\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"


@pytest.mark.slow
def test_every_route_of_the_superlink_with_every_verb(front: FrontBench, device: Identity, routes: list[str]) -> None:
    by = signature(device)
    reached = {
        (verb, path) for path in routes for verb in VERBS
        if not is_refused(verb, answer_to(front, by, verb, path, EMPTY))
    }  # fmt: skip

    fleet = {("POST", path) for path in routes if path.startswith("/v1/fleet/")}
    assert len(fleet) == 12
    assert reached == OPEN | fleet


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "framing"), [("GET", EMPTY), ("POST", EMPTY), ("POST", CHUNKED)])
def test_every_route_of_the_superlink_in_every_disguise(
    front: FrontBench, device: Identity, routes: list[str], verb: str, framing: bytes
) -> None:
    by, others = signature(device), {disguise for path in routes for disguise in disguised(path)} - set(routes)

    assert {other for other in others if not is_refused(verb, answer_to(front, by, verb, other, framing))} == set()


def test_two_requests_in_one_do_not_reach_what_one_could_not(front: FrontBench, device: Identity) -> None:
    hidden = b"POST /v1/control/list-runs HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
    begun = f"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: a\r\n{signature(device)}".encode()
    both = b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + hidden
    after = b"content-length: 0\r\n\r\n" + hidden
    for framing in (both, after):
        with front.connection() as connection:
            answer = response_to(connection, begun + framing)
        statuses = re.findall(rb"HTTP/1.1 (\d+)", answer)
        assert statuses[0] in {b"200", b"400", b"401"}
        assert all(status == b"404" for status in statuses[1:])
