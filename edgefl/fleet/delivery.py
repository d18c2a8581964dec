"""Pull and push the objects of a message, two at a time because each is one round trip."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edgefl.errors import RefusedError
from edgefl.fleet import fleet_pb2
from edgefl.fleet.calls import PULL_OBJECT, PUSH_MESSAGES, PUSH_OBJECT
from edgefl.fleet.objects import MAX_MESSAGE_BYTES, ObjectError
from edgefl.fleet.parcel import Parcel
from edgefl.fleet.status import StoppedError
from edgefl.fleet.transport import Transport

__all__ = ["GoneError", "check_alive", "pull_objects", "push_parcel"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_WORKERS = 2
_PULL_AGAIN_SECONDS = 0.5
_PUSH_ATTEMPTS = 3


class GoneError(RefusedError):
    """Nobody waits for this message any more, or the server has lost parts of it."""


def check_alive(transport: Transport, node_id: int, parcel: Parcel) -> None:
    """Refuse a message that is over.

    Raises:
        GoneError: If nobody waits for an answer any more: it expired, or the server calls this node by another id now.
    """
    if node_id not in {parcel.metadata.src_node_id, parcel.metadata.dst_node_id}:
        raise GoneError(f"message {parcel.metadata.message_id[:12]} belongs to a node that the server has forgotten")
    over_seconds = transport.clock.now() - parcel.expires_at()
    if over_seconds >= 0:
        raise GoneError(f"message {parcel.metadata.message_id[:12]} expired {over_seconds:.0f} s ago")


def pull_objects(transport: Transport, node_id: int, parcel: Parcel) -> dict[str, bytes]:
    """Return the objects of a message that the server holds for a node.

    Raises:
        GoneError: If the message is over, or the server no longer has all of its objects.
        ObjectError: If the tree is no message's, or its objects are too large together.
        StoppedError: If the transport's `stop` was set.
        StatusError: If the server refuses, for instance because the run is over.
    """
    check_alive(transport, node_id, parcel)
    keys = parcel.object_ids()
    left_bytes = MAX_MESSAGE_BYTES
    objects: dict[str, bytes] = {}
    contents = _two_at_a_time(functools.partial(_pull_object, transport, node_id, parcel), keys, transport.stop)
    for key, content in zip(keys, contents, strict=True):
        left_bytes -= len(content)
        if left_bytes < 0:
            contents.close()
            raise ObjectError(f"a message of more than {MAX_MESSAGE_BYTES} bytes; this device takes no larger ones")
        objects[key] = content
    return objects


def push_parcel(transport: Transport, node_id: int, parcel: Parcel) -> None:
    """Give a message and its objects to the server, which says what it still lacks.

    Doing it again does no harm: the message's id is the hash of its objects.

    Raises:
        GoneError: If the message is over, or the server does not keep its objects.
        StoppedError: If the transport's `stop` was set.
        StatusError: If the server refuses, for instance because the run is over.
    """
    node = fleet_pb2.Node(node_id=node_id)
    message = fleet_pb2.PushMessagesRequest(
        node=node, messages_list=[parcel.message], message_object_trees=[parcel.tree]
    )
    for _ in range(_PUSH_ATTEMPTS):
        check_alive(transport, node_id, parcel)
        answer = transport.call(PUSH_MESSAGES, message)
        session = fleet_pb2.PushObjectRequest(node=node, run_id=parcel.metadata.run_id, session_id=answer.session_id)
        push = functools.partial(_push_object, transport, session, parcel)
        taken = list(_two_at_a_time(push, answer.objects_to_push, transport.stop))
        if all(taken):
            return
        # An object whose first answer got lost, or a push session that timed out: ask again what is missing.
        logger.info("the server did not take %d objects; asking again what it lacks", taken.count(False))
    raise GoneError(f"the server does not keep the objects of message {parcel.metadata.message_id[:12]}")


def _pull_object(transport: Transport, node_id: int, parcel: Parcel, key: str) -> bytes:
    request = fleet_pb2.PullObjectRequest(
        node=fleet_pb2.Node(node_id=node_id), run_id=parcel.metadata.run_id, object_id=key
    )
    while True:
        answer = transport.call(PULL_OBJECT, request)
        if not answer.object_found:
            raise GoneError(f"the server has lost object {key[:12]} of message {parcel.metadata.message_id[:12]}")
        if answer.object_available:
            return answer.object_content
        # The sender is still uploading.
        check_alive(transport, node_id, parcel)
        if transport.stop.wait(_PULL_AGAIN_SECONDS):
            raise StoppedError("stopped while waiting for an instruction's objects")


def _push_object(transport: Transport, session: fleet_pb2.PushObjectRequest, parcel: Parcel, key: str) -> bool:
    content = parcel.objects.get(key)
    if content is None:
        raise GoneError(f"the server asks for object {key[:12]}, which this message does not have")
    request = fleet_pb2.PushObjectRequest(object_id=key, object_content=content)
    request.MergeFrom(session)
    return transport.call(PUSH_OBJECT, request).stored


def _two_at_a_time(
    function: Callable[[str], Result], keys: Sequence[str], stop: threading.Event
) -> Generator[Result, None, None]:
    def unless_stopped(key: str) -> Result:
        if stop.is_set():
            raise StoppedError("stopped in the middle of a message")
        return function(key)

    executor = ThreadPoolExecutor(_WORKERS)
    try:
        yield from executor.map(unless_stopped, keys)
    finally:
        executor.shutdown(cancel_futures=True)
