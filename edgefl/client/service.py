"""The client's loop: from one message to the next, until somebody stops it."""

from __future__ import annotations

import logging

from edgefl.client.session import Session
from edgefl.errors import EdgeFLError
from edgefl.fleet.node import Node, Received
from edgefl.fleet.status import StoppedError

__all__ = ["serve"]

logger = logging.getLogger(__name__)


def serve(node: Node, session: Session) -> None:
    """Answer messages until the node's transport is told to stop.

    An instruction this device will not or cannot follow is answered with the reason; the loop goes on.
    """
    try:
        while (received := node.receive()) is not None:
            _answer(node, session, received)
    except StoppedError as stopped:
        logger.info("%s", stopped)


def _answer(node: Node, session: Session, received: Received) -> None:
    logger.info("%s", received.message_type)
    try:
        content = session.answer(received.message_type, received.content)
    except StoppedError:
        raise
    except EdgeFLError as error:
        logger.warning("%s refused: %s", received.message_type, error)
        node.reply_error(received, str(error))
    else:
        node.reply(received, content)
