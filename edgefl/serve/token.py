"""Bearer tokens: every method but the health check wants the one that the server was given."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc

__all__ = ["TokenCheck"]

_OPEN = "/grpc.health.v1.Health/Check"

if TYPE_CHECKING:  # gRPC's classes have parameters only there
    _Continue = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]


class TokenCheck(grpc.aio.ServerInterceptor):
    """Ends calls without the token, or with another one, with UNAUTHENTICATED.

    Args:
        token: The token.
        refused: Called for each call that is refused, with the name of the status.
    """

    def __init__(self, token: str, refused: Callable[[str], None]) -> None:
        self._expected, self._refused = f"Bearer {token}".encode(), refused

    async def intercept_service(
        self, continuation: _Continue, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Pass a call on, or answer it with a refusal."""
        if handler_call_details.method == _OPEN or self._is_allowed(handler_call_details):
            return await continuation(handler_call_details)
        self._refused(grpc.StatusCode.UNAUTHENTICATED.name)
        return grpc.unary_unary_rpc_method_handler(_refuse)

    def _is_allowed(self, details: grpc.HandlerCallDetails) -> bool:
        given = [value for key, value in details.invocation_metadata if key == "authorization"]
        value = given[0] if len(given) == 1 else ""
        return hmac.compare_digest(value if isinstance(value, bytes) else value.encode(), self._expected)


async def _refuse(_request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    message = "no token, or not this server's; send the metadata authorization: Bearer TOKEN"
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)
