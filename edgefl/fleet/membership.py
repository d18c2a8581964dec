"""A device's place in a federation: its node id, won by registering and activating, and kept by heartbeats."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from edgefl.errors import EdgeFLError
from edgefl.fleet import fleet_pb2
from edgefl.fleet.calls import (
    ACTIVATE_NODE,
    DEACTIVATE_NODE,
    REGISTER_NODE,
    SEND_NODE_HEARTBEAT,
    UNREGISTER_NODE,
    Call,
    Request,
    Response,
)
from edgefl.fleet.journal import Journal
from edgefl.fleet.status import NotActiveError, StatusError, UnauthorizedError
from edgefl.fleet.transport import Transport

__all__ = ["Membership"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# The server counts a node as gone after two intervals without a heartbeat.
_BEAT_FRACTION = 0.8
_BEAT_AGAIN_FRACTION = 0.2
_LEAVE_SECONDS = 5.0


class _Send(Protocol):
    def __call__(self, call: Call[Request, Response], request: Request) -> Response: ...


class Membership:
    """One device in one federation.

    Attributes:
        node_id: What the server calls this device; 0 before it joined.
    """

    def __init__(self, transport: Transport, journal: Journal, *, heartbeat_seconds: float) -> None:
        self.node_id = 0
        self._transport = transport
        self._journal = journal
        self._heartbeat_seconds = heartbeat_seconds
        self._entering = threading.Lock()
        self._left = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="edgefl-heartbeat", daemon=True)

    def join(self) -> None:
        """Register, activate and keep the heart beating in a thread, until `leave` or the transport's `stop`.

        Raises:
            NotActiveError: If the server does not know this device's key, or another process uses it.
            UnreachableError: If the server never answered.
            StoppedError: If the transport's `stop` was set meanwhile.
        """
        with self._entering:
            self._enter(self._transport.call)
        self._heart.start()

    def as_member(self, action: Callable[[int], Result]) -> Result:
        """Do something with the node id; join again if the server has forgotten it, and do it once more."""
        node_id = self.node_id
        try:
            return action(node_id)
        except (UnauthorizedError, NotActiveError):
            self._enter_again(node_id, self._transport.call)
            return action(self.node_id)

    def leave(self, *, unregister: bool) -> None:
        """Stop the heartbeats and tell the server, as far as it can be reached.

        Args:
            unregister: Whether the server should forget the device; it never accepts its key again.
        """
        self._left.set()
        if self._heart.is_alive():
            # A heartbeat behind the deactivation would bring the node back.
            self._heart.join(_LEAVE_SECONDS)
        try:
            self._transport.call_once(DEACTIVATE_NODE, fleet_pb2.DeactivateNodeRequest(node_id=self.node_id))
            if unregister:
                self._transport.call_once(UNREGISTER_NODE, fleet_pb2.UnregisterNodeFleetRequest(node_id=self.node_id))
        except EdgeFLError as error:
            logger.info("left without a farewell: %s", error)

    def _enter(self, send: _Send) -> None:
        public_key = self._transport.identity.public_key_pem
        # Refused where the device is known already, and where only the operator may register devices.
        with contextlib.suppress(NotActiveError):
            self._become(send(REGISTER_NODE, fleet_pb2.RegisterNodeFleetRequest(public_key=public_key)).node_id)
        activation = fleet_pb2.ActivateNodeRequest(public_key=public_key, heartbeat_interval=self._heartbeat_seconds)
        try:
            node_id = send(ACTIVATE_NODE, activation).node_id
        except NotActiveError as error:
            node_id = self._take_over(send, error)
        self._become(node_id)
        self.node_id = node_id
        logger.info("joined %s as node %d", self._transport.url, node_id)

    def _take_over(self, send: _Send, refusal: NotActiveError) -> int:
        """Go on with the session that a crash left open.

        To close it first would be the end of what the server waits for: it gives up a message as soon as it looks
        for the reply of a node that is not active.
        """
        node_id = self._journal.load_node_id()
        if node_id is not None:
            with contextlib.suppress(StatusError):
                if send(SEND_NODE_HEARTBEAT, self._heartbeat(node_id)).success:
                    return node_id
        raise NotActiveError(
            f"{self._transport.url} does not accept this device: its key is not registered there, or another "
            "process uses it; register the public key with the server, or stop the other process"
        ) from refusal

    def _become(self, node_id: int) -> None:
        if self._journal.load_node_id() != node_id:
            # Instructions and replies belong to the node id they were sent to.
            self._journal.instruction.forget()
            if (reply := self._journal.reply.load()) is not None:
                self._journal.close_reply(reply)
            self._journal.save_node_id(node_id)

    def _enter_again(self, forgotten_id: int, send: _Send) -> None:
        with self._entering:
            if self.node_id == forgotten_id:
                logger.info("%s has forgotten node %d; joining again", self._transport.url, forgotten_id)
                self._enter(send)

    def _beat(self) -> None:
        pause_seconds = self._heartbeat_seconds * _BEAT_FRACTION
        while not (self._left.wait(pause_seconds) or self._transport.stop.is_set()):
            try:
                self._send_heartbeat()
                pause_seconds = self._heartbeat_seconds * _BEAT_FRACTION
            except EdgeFLError as error:
                logger.warning("a heartbeat failed: %s", error)
                pause_seconds = self._heartbeat_seconds * _BEAT_AGAIN_FRACTION

    def _send_heartbeat(self) -> None:
        node_id = self.node_id
        try:
            is_known = self._transport.call_once(SEND_NODE_HEARTBEAT, self._heartbeat(node_id)).success
        except (UnauthorizedError, NotActiveError):
            is_known = False
        if not is_known:
            self._enter_again(node_id, self._transport.call_once)

    def _heartbeat(self, node_id: int) -> fleet_pb2.SendNodeHeartbeatRequest:
        return fleet_pb2.SendNodeHeartbeatRequest(
            node=fleet_pb2.Node(node_id=node_id), heartbeat_interval=self._heartbeat_seconds
        )
