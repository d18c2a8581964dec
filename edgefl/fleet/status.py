"""What a Fleet API server's refusals mean to a node, one class each, so that callers need no status numbers."""

from __future__ import annotations

import http
import json

from edgefl.errors import EdgeFLError, RefusedError

__all__ = [
    "NotActiveError",
    "RunOverError",
    "ServerError",
    "StatusError",
    "StoppedError",
    "UnauthorizedError",
    "status_error",
]

_MAX_DETAIL_CHARACTERS = 200


class StatusError(RefusedError):
    """The server answered with an HTTP error."""


class UnauthorizedError(StatusError):
    """401: the signature, the clock or the node id is not accepted."""


class RunOverError(StatusError):
    """403: the run that a message belongs to has ended."""


class NotActiveError(StatusError):
    """409 or 412: the node's registration or activation is not in the state that the call needs."""


class ServerError(StatusError):
    """5xx: the server failed."""


class StoppedError(EdgeFLError):
    """The caller asked to stop while a call was waiting for its next attempt."""

    exit_code = 130


_CLASSES: dict[int, type[StatusError]] = {
    http.HTTPStatus.UNAUTHORIZED: UnauthorizedError,
    http.HTTPStatus.FORBIDDEN: RunOverError,
    http.HTTPStatus.CONFLICT: NotActiveError,
    http.HTTPStatus.PRECONDITION_FAILED: NotActiveError,
}


def status_error(status: int, body: bytes, what: str) -> StatusError:
    """Return the error that an HTTP status of 400 or above stands for.

    Args:
        status: The HTTP status.
        body: The answer; Flower sends JSON with a `detail`.
        what: The call and the server, for the message.
    """
    kind = ServerError if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR else _CLASSES.get(status, StatusError)
    return kind(f"{what} was refused: HTTP {status}, {_detail(body)}; the server's log says more")


def _detail(body: bytes) -> str:
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return "without a reason"
    # A server's text ends up in this device's log: one short line, no control characters.
    return repr(str(detail)[:_MAX_DETAIL_CHARACTERS])
