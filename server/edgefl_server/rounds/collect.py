"""Send messages and collect replies until a deadline that holds.

Flower's own `send_and_receive(timeout=)` checks its timeout only between two pulls, and one pull blocks for minutes
on a device that stalls in the middle of its upload, together with every finished reply.  Here each message has a
collector thread of its own: a stalled one keeps only itself waiting.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event

from flwr.app import Message
from flwr.serverapp import Grid

__all__ = ["Limits", "collect"]

_Pending = dict[Future[Message | None], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop waiting.

    Attributes:
        deadline_seconds: At the latest.
        quorum: Share of the messages, in (0, 1], whose replies are enough.
        grace_seconds: How long the others still have once these are there.
        poll_seconds: How often each collector asks.
    """

    deadline_seconds: float
    quorum: float = 1.0
    grace_seconds: float = 0.0
    poll_seconds: float = 0.5

    def enough(self, num_messages: int) -> int:
        """Return how many usable replies make the quorum, at least 1."""
        # Rounded first: 0.07 of 100 is 7, and 7.000000000000001 in floating point.
        return max(1, math.ceil(round(self.quorum * num_messages, 6)))


def collect(
    grid: Grid, messages: Sequence[Message], limits: Limits, receive: Callable[[int, Message], bool]
) -> dict[int, str]:
    """Send one message to each node and hand over the replies in the order of their arrival.

    Args:
        grid: Flower's connection to the nodes.
        messages: At most one for a node.
        limits: When to stop waiting.
        receive: Takes a node and its reply, in the calling thread; tells whether the reply counts for the quorum.

    Returns:
        By node, why no reply was handed over.
    """
    ends = time.monotonic() + limits.deadline_seconds
    failures: dict[int, str] = {}
    stop = Event()
    if not messages:
        return failures
    pool = ThreadPoolExecutor(max_workers=len(messages), thread_name_prefix="collect")
    try:
        pending = _send(grid, messages, limits, pool, stop, failures)
        missing = limits.enough(len(messages))
        while pending and (seconds := ends - time.monotonic()) > 0:
            done, _ = wait(pending, timeout=seconds, return_when=FIRST_COMPLETED)
            for future in done:
                missing -= _hand_over(future, pending.pop(future), receive, failures)
            if missing <= 0:
                ends = min(ends, time.monotonic() + limits.grace_seconds)
    finally:
        stop.set()
        # Never joined: a collector may be stuck in a pull long after the deadline.
        pool.shutdown(wait=False, cancel_futures=True)
    return failures | dict.fromkeys(pending.values(), "no reply in time")


def _send(
    grid: Grid,
    messages: Sequence[Message],
    limits: Limits,
    pool: ThreadPoolExecutor,
    stop: Event,
    failures: dict[int, str],
) -> _Pending:
    """Push the messages and start their collectors."""
    pending: _Pending = {}
    for message, message_id in zip(messages, grid.push_messages(messages), strict=True):
        if message_id:
            pending[pool.submit(_pull, grid, message_id, limits.poll_seconds, stop)] = message.metadata.dst_node_id
        else:
            failures[message.metadata.dst_node_id] = "the SuperLink did not take the message"
    return pending


def _pull(grid: Grid, message_id: str, poll_seconds: float, stop: Event) -> Message | None:
    """Ask for one reply until it is there or nobody waits for it any more."""
    while not stop.is_set():
        for reply in grid.pull_messages([message_id]):
            return reply
        stop.wait(poll_seconds)
    return None


def _hand_over(
    future: Future[Message | None], node_id: int, receive: Callable[[int, Message], bool], failures: dict[int, str]
) -> bool:
    error = future.exception()
    if error is not None:
        # Flower raises here for a reply it cannot decode: one device's reply, not the round's end.
        failures[node_id] = f"its reply cannot be read: {error}"
        return False
    reply = future.result()
    return reply is not None and receive(node_id, reply)
