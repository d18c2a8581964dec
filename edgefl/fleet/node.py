"""A node of a Flower federation: waits for instructions, answers them, and survives whatever happens meanwhile.

It never executes anything a server sends: of a Flower app only the messages are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from edgefl.fleet import fleet_pb2
from edgefl.fleet.calls import CONFIRM_MESSAGE_RECEIVED, PULL_MESSAGES
from edgefl.fleet.content import Content, content_digest
from edgefl.fleet.delivery import GoneError, check_alive, pull_objects, push_parcel
from edgefl.fleet.journal import Journal
from edgefl.fleet.membership import Membership
from edgefl.fleet.objects import ObjectError
from edgefl.fleet.parcel import Parcel, pack_error, pack_reply
from edgefl.fleet.status import NotActiveError, RunOverError, ServerError, StatusError, StoppedError, UnauthorizedError
from edgefl.fleet.transport import Transport

__all__ = ["Node", "Received"]

logger = logging.getLogger(__name__)

# An instruction that ended the process this often, for want of memory perhaps, will do it again.
_MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An instruction.

    Attributes:
        message_type: What is asked, such as `train` or `query.properties`.
        content: What it is asked with.
        metadata: Whom to answer; opaque.
        question: Digest of all that the answer depends on.
    """

    message_type: str
    content: Content
    metadata: fleet_pb2.Metadata
    question: bytes


class Node:
    """One device in one federation; a context manager that joins and leaves.

    All its methods belong to one thread.
    """

    def __init__(
        self,
        transport: Transport,
        journal: Journal,
        *,
        work: bytes = b"",
        heartbeat_seconds: float = 30.0,
        poll_seconds: float = 1.0,
    ) -> None:
        """Prepare a node; nothing is sent yet.

        Args:
            transport: The way to the server; its `stop` ends every wait of the node.
            journal: The node's state folder.
            work: Digest of what answers depend on besides their instruction, such as the samples of the device.
            heartbeat_seconds: Promise to the server, from 10 to 1800; it waits twice as long for a sign of life.
            poll_seconds: Pause between two questions for an instruction.
        """
        self._transport = transport
        self._journal = journal
        self._work = work
        self._membership = Membership(transport, journal, heartbeat_seconds=heartbeat_seconds)
        self._poll_seconds = poll_seconds

    def __enter__(self) -> Self:
        self.join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def node_id(self) -> int:
        """What the server calls this device; 0 before it joined."""
        return self._membership.node_id

    def join(self) -> None:
        """Enter the federation.

        Raises:
            NotActiveError: If the server does not know this device's key, or another process uses it.
            UnreachableError: If the server never answered.
            StoppedError: If the transport's `stop` was set meanwhile.
        """
        self._membership.join()

    def close(self, *, unregister: bool = False) -> None:
        """Leave the federation, as far as the server can be reached, and close the transport's connections.

        Args:
            unregister: Whether the server should forget the device; it never accepts its key again.
        """
        self._membership.leave(unregister=unregister)
        self._transport.close()

    def receive(self) -> Received | None:
        """Wait for the next instruction; the same one again until it is answered.

        First a reply whose upload was interrupted is uploaded.  Messages that nobody waits for any more are
        dropped, hostile ones are answered with an error.  What was answered with arrays last, and is asked again
        because the server lost the answer, gets the same answer without being handed out.

        Returns:
            The instruction, or None when the transport's `stop` was set.

        Raises:
            StatusError: If the server no longer accepts this device.
            StorageError: If the journal cannot be written.
        """
        while not self._transport.stop.is_set():
            try:
                self._push_unsent()
                received = self._next()
            except StoppedError:
                break
            except ServerError as error:
                logger.warning("%s; asking again", error)
                received = None
            if received is not None:
                return received
            self._transport.stop.wait(self._poll_seconds)
        return None

    def reply(self, received: Received, content: Content) -> bool:
        """Answer an instruction.

        The reply is on disk before it is uploaded; `receive`, of this process or the next, finishes an interrupted
        upload.

        Returns:
            Whether the server has it now; False if the run is over, or if the upload has to be tried again.

        Raises:
            StoppedError: If the transport's `stop` was set meanwhile.
            StorageError: If the journal cannot be written.
        """
        parcel = pack_reply(received.metadata, content, self._transport.clock.now())
        return self._answer(dataclasses.replace(parcel, question=received.question if content.arrays else b""))

    def reply_error(self, received: Received, reason: str) -> bool:
        """Tell the server why there is no answer; otherwise like `reply`."""
        return self._answer(pack_error(received.metadata, reason, self._transport.clock.now()))

    def _next(self) -> Received | None:
        parcel = self._journal.instruction.load() or self._pull_message()
        if parcel is None:
            return None
        try:
            received = self._open(parcel)
        except (GoneError, RunOverError) as error:
            logger.info("instruction dropped: %s", error)
            self._journal.instruction.forget()
        except ObjectError as error:
            logger.warning("instruction refused: %s", error)
            self._answer(pack_error(parcel.metadata, str(error), self._transport.clock.now()))
        else:
            return None if self._answered_before(received) else received
        return None

    def _answered_before(self, received: Received) -> bool:
        """Give the answer that the same question has had, if it is still there."""
        before = self._journal.answered.load()
        if before is None or before.question != received.question:
            return False
        logger.info("the server has lost the last answer; it gets it again")
        self.reply(received, before.unpack())
        return True

    def _pull_message(self) -> Parcel | None:
        answer = self._membership.as_member(
            lambda node_id: self._transport.call(
                PULL_MESSAGES, fleet_pb2.PullMessagesRequest(node=fleet_pb2.Node(node_id=node_id))
            )
        )
        if not answer.messages_list:
            return None
        trees = answer.message_object_trees or [fleet_pb2.ObjectTree()]
        parcel = Parcel(message=answer.messages_list[0], tree=trees[0])
        # The server hands a message out once: from now on this is its only trace.
        self._journal.instruction.save(parcel)
        return parcel

    def _open(self, parcel: Parcel) -> Received:
        check_alive(self._transport, self.node_id, parcel)
        if parcel.attempts == _MAX_ATTEMPTS:
            raise ObjectError(f"the client ended {_MAX_ATTEMPTS} times while it worked on this instruction")
        objects = parcel.objects or self._membership.as_member(
            lambda node_id: pull_objects(self._transport, node_id, parcel)
        )
        self._journal.instruction.save(dataclasses.replace(parcel, objects=objects, attempts=parcel.attempts + 1))
        # Only now: the server deletes the objects.
        self._confirm(parcel.metadata)
        content = dataclasses.replace(parcel, objects=objects).unpack()
        return Received(
            message_type=parcel.metadata.message_type,
            content=content,
            metadata=parcel.metadata,
            question=hashlib.sha256(self._work + content_digest(content)).digest(),
        )

    def _confirm(self, metadata: fleet_pb2.Metadata) -> None:
        self._membership.as_member(
            lambda node_id: self._transport.call(
                CONFIRM_MESSAGE_RECEIVED,
                fleet_pb2.ConfirmMessageReceivedRequest(
                    node=fleet_pb2.Node(node_id=node_id),
                    run_id=metadata.run_id,
                    message_object_id=metadata.message_id,
                ),
            )
        )

    def _answer(self, parcel: Parcel) -> bool:
        self._journal.reply.save(parcel)
        self._journal.instruction.forget()
        try:
            return self._push(parcel)
        except ServerError as error:
            logger.warning("the reply is kept and uploaded later: %s", error)
            return False

    def _push_unsent(self) -> None:
        parcel = self._journal.reply.load()
        if parcel is not None:
            # A crash may have come between writing the reply and removing its instruction.
            self._journal.instruction.forget()
            self._push(parcel)

    def _push(self, parcel: Parcel) -> bool:
        try:
            self._membership.as_member(lambda node_id: push_parcel(self._transport, node_id, parcel))
        except (ServerError, UnauthorizedError, NotActiveError):
            raise
        except (GoneError, StatusError) as error:
            logger.info("reply not uploaded: %s", error)
            self._journal.close_reply(parcel)
            return False
        self._journal.close_reply(parcel)
        return True
