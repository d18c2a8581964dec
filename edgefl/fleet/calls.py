"""The calls of Flower's Fleet API that a node makes, each with its path, request and response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from edgefl.fleet import fleet_pb2

__all__ = [
    "ACTIVATE_NODE",
    "CONFIRM_MESSAGE_RECEIVED",
    "DEACTIVATE_NODE",
    "FLEET_CALLS",
    "PULL_MESSAGES",
    "PULL_OBJECT",
    "PUSH_MESSAGES",
    "PUSH_OBJECT",
    "REGISTER_NODE",
    "SEND_NODE_HEARTBEAT",
    "UNREGISTER_NODE",
    "Call",
]

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Call(Generic[Request, Response]):
    """One remote procedure.

    Attributes:
        path: Its last path component, behind `/v1/fleet/`.
        request: What is sent.
        response: What is answered.
    """

    path: str
    request: type[Request]
    response: type[Response]


REGISTER_NODE = Call("register-node", fleet_pb2.RegisterNodeFleetRequest, fleet_pb2.RegisterNodeFleetResponse)
ACTIVATE_NODE = Call("activate-node", fleet_pb2.ActivateNodeRequest, fleet_pb2.ActivateNodeResponse)
SEND_NODE_HEARTBEAT = Call(
    "send-node-heartbeat", fleet_pb2.SendNodeHeartbeatRequest, fleet_pb2.SendNodeHeartbeatResponse
)
DEACTIVATE_NODE = Call("deactivate-node", fleet_pb2.DeactivateNodeRequest, fleet_pb2.DeactivateNodeResponse)
UNREGISTER_NODE = Call("unregister-node", fleet_pb2.UnregisterNodeFleetRequest, fleet_pb2.UnregisterNodeFleetResponse)
PULL_MESSAGES = Call("pull-messages", fleet_pb2.PullMessagesRequest, fleet_pb2.PullMessagesResponse)
PULL_OBJECT = Call("pull-object", fleet_pb2.PullObjectRequest, fleet_pb2.PullObjectResponse)
CONFIRM_MESSAGE_RECEIVED = Call(
    "confirm-message-received", fleet_pb2.ConfirmMessageReceivedRequest, fleet_pb2.ConfirmMessageReceivedResponse
)
PUSH_MESSAGES = Call("push-messages", fleet_pb2.PushMessagesRequest, fleet_pb2.PushMessagesResponse)
PUSH_OBJECT = Call("push-object", fleet_pb2.PushObjectRequest, fleet_pb2.PushObjectResponse)

FLEET_CALLS: tuple[Call[Any, Any], ...] = (
    REGISTER_NODE,
    ACTIVATE_NODE,
    SEND_NODE_HEARTBEAT,
    DEACTIVATE_NODE,
    UNREGISTER_NODE,
    PULL_MESSAGES,
    PULL_OBJECT,
    CONFIRM_MESSAGE_RECEIVED,
    PUSH_MESSAGES,
    PUSH_OBJECT,
)
"""All of them."""
