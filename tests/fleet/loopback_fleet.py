"""A Fleet API in a few lines, so that a test can lose, forge and refuse what a stock SuperLink would not."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.message import Message

from edgefl.fleet import calls, fleet_pb2
from edgefl.fleet.content import Content, decode_content, encode_content
from edgefl.fleet.objects import ObjectStore
from tests.fleet.http_server import Answer, Asked

_CALLS = {call.path: call for name in calls.__all__ if isinstance(call := getattr(calls, name), calls.Call)}


@dataclass
class LoopbackFleet:
    """A server of one run.

    Attributes:
        refusals: HTTP statuses by path: the next calls get them, one each.
        tampers: What to do to the answer of a path before it is sent.
        self_registration: Whether devices may register themselves.
    """

    refusals: dict[str, list[int]] = field(default_factory=dict)
    tampers: dict[str, Callable[[Message], None]] = field(default_factory=dict)
    self_registration: bool = True
    nodes: dict[bytes, int] = field(default_factory=dict)
    online: set[int] = field(default_factory=set)
    inbox: list[tuple[fleet_pb2.Message, fleet_pb2.ObjectTree]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    replies: dict[str, fleet_pb2.Message] = field(default_factory=dict)
    awaited: dict[str, set[str]] = field(default_factory=dict)
    confirmed: list[str] = field(default_factory=list)
    next_node_id: int = 100

    def send(self, content: Content, *, message_type: str = "train", ttl_seconds: float = 600.0) -> str:
        """Queue an instruction and return its id."""
        store = ObjectStore()
        metadata = fleet_pb2.Metadata(
            run_id=5, src_node_id=1, message_type=message_type, ttl=ttl_seconds, created_at=time.time()
        )
        body = fleet_pb2.Message(metadata=metadata).SerializeToString()
        metadata.message_id = store.add("Message", (encode_content(store, content),), body)
        self.objects |= store.contents
        self.inbox.append((fleet_pb2.Message(metadata=metadata), store.tree(metadata.message_id)))
        return metadata.message_id

    def forget_everything(self) -> None:
        """Lose nodes and messages, as a SuperLink without a database does when it is restarted."""
        for kept in (self.nodes, self.online, self.inbox, self.objects):
            kept.clear()

    def reply_to(self, message_id: str) -> Content | fleet_pb2.Error | None:
        """Return the answer to an instruction, once all of its objects have arrived."""
        found = [r for r in list(self.replies.values()) if r.metadata.reply_to_message_id == message_id]
        if not found or self.awaited[found[0].metadata.message_id]:
            return None
        if found[0].HasField("error"):
            return found[0].error
        store = ObjectStore(self.objects)
        _, root = store.get(found[0].metadata.message_id, ["Message"])
        return decode_content(store, root.children[0])

    def decide(self, asked: Asked) -> Answer:
        """Answer a request."""
        if statuses := self.refusals.get(asked.path):
            return Answer(status=statuses.pop(0))
        call = _CALLS[asked.path]
        request = call.request.FromString(asked.body)
        key = base64.b64decode(asked.headers["flwr-public-key"])
        named = getattr(request, "node", request)
        if hasattr(named, "node_id") and self.nodes.get(key) != named.node_id:
            return Answer(status=401)
        response = getattr(self, "_" + asked.path.replace("-", "_"))(request)
        if isinstance(response, int):
            return Answer(status=response)
        if tamper := self.tampers.get(asked.path):
            tamper(response)
        return Answer(body=response.SerializeToString())

    def _register_node(self, request: fleet_pb2.RegisterNodeFleetRequest) -> Message | int:
        if request.public_key in self.nodes or not self.self_registration:
            return 412
        self.next_node_id += 1
        self.nodes[request.public_key] = self.next_node_id
        return fleet_pb2.RegisterNodeFleetResponse(node_id=self.next_node_id)

    def _activate_node(self, request: fleet_pb2.ActivateNodeRequest) -> Message | int:
        node_id = self.nodes.get(request.public_key)
        if node_id is None or node_id in self.online:
            return 412
        self.online.add(node_id)
        return fleet_pb2.ActivateNodeResponse(node_id=node_id)

    def _deactivate_node(self, request: fleet_pb2.DeactivateNodeRequest) -> Message | int:
        if request.node_id not in self.online:
            return 412
        self.online.remove(request.node_id)
        return fleet_pb2.DeactivateNodeResponse()

    def _unregister_node(self, request: fleet_pb2.UnregisterNodeFleetRequest) -> Message:
        self.nodes = {key: node_id for key, node_id in self.nodes.items() if node_id != request.node_id}
        return fleet_pb2.UnregisterNodeFleetResponse()

    def _send_node_heartbeat(self, request: fleet_pb2.SendNodeHeartbeatRequest) -> Message:
        self.online.add(request.node.node_id)
        return fleet_pb2.SendNodeHeartbeatResponse(success=True)

    def _pull_messages(self, request: fleet_pb2.PullMessagesRequest) -> Message:
        if not self.inbox:
            return fleet_pb2.PullMessagesResponse()
        message, tree = self.inbox.pop(0)
        message.metadata.dst_node_id = request.node.node_id
        return fleet_pb2.PullMessagesResponse(messages_list=[message], message_object_trees=[tree])

    def _pull_object(self, request: fleet_pb2.PullObjectRequest) -> Message:
        content = self.objects.get(request.object_id)
        return fleet_pb2.PullObjectResponse(
            object_found=content is not None, object_available=bool(content), object_content=content or b""
        )

    def _confirm_message_received(self, request: fleet_pb2.ConfirmMessageReceivedRequest) -> Message:
        self.confirmed.append(request.message_object_id)
        return fleet_pb2.ConfirmMessageReceivedResponse()

    def _push_messages(self, request: fleet_pb2.PushMessagesRequest) -> Message:
        (message,), (tree,) = request.messages_list, request.message_object_trees
        missing = [key for key in _ids(tree) if key not in self.objects]
        self.awaited[message.metadata.message_id] = set(missing)
        self.replies[message.metadata.message_id] = message
        return fleet_pb2.PushMessagesResponse(objects_to_push=missing, session_id="session")

    def _push_object(self, request: fleet_pb2.PushObjectRequest) -> Message:
        is_new = request.object_id not in self.objects
        self.objects[request.object_id] = request.object_content
        for missing in self.awaited.values():
            missing.discard(request.object_id)
        return fleet_pb2.PushObjectResponse(stored=is_new)


def _ids(tree: fleet_pb2.ObjectTree) -> list[str]:
    return [key for child in tree.children for key in _ids(child)] + [tree.object_id]
