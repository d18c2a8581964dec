"""A message together with its objects: what is pulled, kept on disk and pushed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgefl.fleet import fleet_pb2
from edgefl.fleet.content import Content, decode_content, encode_content
from edgefl.fleet.objects import ObjectError, ObjectStore, tree_ids

__all__ = ["CLIENT_ERROR", "Parcel", "pack_error", "pack_reply"]

CLIENT_ERROR = 2
"""Flower's error code for a client that failed on an instruction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A message and its objects.

    Attributes:
        message: Metadata, without content.
        tree: Ids of its objects; the root is the message's own id.
        objects: Head and body of each object by id; empty as long as they have not been pulled.
        attempts: How often the instruction was handed out to be worked on.
        question: Of a reply that cost work, the digest of what it answers; else empty.
    """

    message: fleet_pb2.Message
    tree: fleet_pb2.ObjectTree
    objects: Mapping[str, bytes] = field(default_factory=dict)
    attempts: int = 0
    question: bytes = b""

    @property
    def metadata(self) -> fleet_pb2.Metadata:
        """The message's metadata."""
        return self.message.metadata

    def expires_at(self) -> float:
        """Return the time, in seconds since 1970 by the server's clock, from which nobody waits for an answer."""
        return self.metadata.created_at + self.metadata.ttl

    def object_ids(self) -> list[str]:
        """Return the ids of the objects, children before parents.

        Raises:
            ObjectError: If the tree is no tree of this message.
        """
        if self.tree.object_id != self.metadata.message_id:
            raise ObjectError(
                f"message {self.metadata.message_id[:12]!r} came with the tree of {self.tree.object_id[:12]!r}"
            )
        return tree_ids(self.tree)

    def unpack(self) -> Content:
        """Return the content of an instruction whose objects are there.

        Raises:
            ObjectError: If the objects are not the encoding of a message with content.
        """
        store = ObjectStore(self.objects)
        _, message = store.get(self.metadata.message_id, ["Message"])
        if len(message.children) != 1:
            raise ObjectError(
                f"message {self.metadata.message_id[:12]} has {len(message.children)} contents; expected 1"
            )
        return decode_content(store, message.children[0])


def pack_reply(instruction: fleet_pb2.Metadata, content: Content, now: float) -> Parcel:
    """Return the answer to an instruction, from the node that the instruction was sent to.

    Args:
        instruction: Metadata of the instruction.
        content: The answer's content.
        now: The server's time in seconds since 1970.

    Raises:
        TypeError: If a value is of a type Flower cannot carry.
        ValueError: If an integer does not fit in 64 bits.
    """
    store = ObjectStore()
    root = encode_content(store, content)
    message = fleet_pb2.Message(metadata=_reply_metadata(instruction, now))
    body = message.SerializeToString()
    message.content.SetInParent()
    return _pack(store, message, body, (root,))


def pack_error(instruction: fleet_pb2.Metadata, reason: str, now: float) -> Parcel:
    """Return the answer that says why there is none.

    Args:
        instruction: Metadata of the instruction.
        reason: What went wrong, for the server's log.
        now: The server's time in seconds since 1970.
    """
    error = fleet_pb2.Error(code=CLIENT_ERROR, reason=reason)
    message = fleet_pb2.Message(metadata=_reply_metadata(instruction, now), error=error)
    return _pack(ObjectStore(), message, message.SerializeToString(), ())


def _pack(store: ObjectStore, message: fleet_pb2.Message, body: bytes, children: tuple[str, ...]) -> Parcel:
    # The id is the hash of the object, so the object itself cannot contain it.
    message.metadata.message_id = store.add("Message", children, body)
    return Parcel(message=message, tree=store.tree(message.metadata.message_id), objects=store.contents)


def _reply_metadata(instruction: fleet_pb2.Metadata, now: float) -> fleet_pb2.Metadata:
    reply = fleet_pb2.Metadata(
        run_id=instruction.run_id,
        src_node_id=instruction.dst_node_id,
        dst_node_id=instruction.src_node_id,
        reply_to_message_id=instruction.message_id,
        group_id=instruction.group_id,
        message_type=instruction.message_type,
        created_at=now,
        # A reply may not outlive its instruction.
        ttl=instruction.created_at + instruction.ttl - now,
    )
    if instruction.HasField("dst_task_id"):
        reply.src_task_id = instruction.dst_task_id
    if instruction.HasField("src_task_id"):
        reply.dst_task_id = instruction.src_task_id
    return reply
