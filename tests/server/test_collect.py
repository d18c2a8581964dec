"""A round waits as long as it was told, whatever the devices do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from flwr.app import Message, RecordDict

from edgefl_server.rounds.collect import Limits, collect
from tests.server.toy_federation import Respond, ToyGrid, failing, silent


def answering(message: Message) -> Message:
    return Message(RecordDict(), reply_to=message)


def undecodable(_message: Message) -> Message:
    raise ValueError("no such object type")


def ask(grid: ToyGrid, limits: Limits) -> tuple[list[int], dict[int, str]]:
    """Ask every node; return who answered, in order, and why the others did not."""
    answered: list[int] = []

    def receive(node_id: int, reply: Message) -> bool:
        answered.append(node_id)
        return not reply.has_error()

    messages = [Message(RecordDict(), node_id, "train") for node_id in grid.nodes]
    return answered, collect(grid, messages, limits, receive)


@pytest.fixture
def grid() -> Iterator[ToyGrid]:
    grid = ToyGrid({})
    yield grid
    grid.released.set()


PATIENT = Limits(deadline_seconds=60, poll_seconds=0.01)


def test_every_reply_is_handed_over_errors_among_them(grid: ToyGrid) -> None:
    grid.nodes = {1: answering, 2: failing, 3: answering}
    answered, failures = ask(grid, PATIENT)
    assert (sorted(answered), failures) == ([1, 2, 3], {})


def test_a_stalled_upload_ends_at_the_deadline_and_costs_no_finished_reply(grid: ToyGrid) -> None:
    grid.nodes = {1: grid.stalled, 2: answering}
    started = time.monotonic()
    answered, failures = ask(grid, Limits(deadline_seconds=0.3, poll_seconds=0.01))
    assert (answered, failures) == ([2], {1: "no reply in time"})
    assert 0.3 <= time.monotonic() - started < 30


def test_a_silent_node_is_asked_until_the_deadline(grid: ToyGrid) -> None:
    asked = []

    def late(message: Message) -> Message | None:
        asked.append(message)
        return answering(message) if len(asked) == 5 else None

    grid.nodes = {1: late, 2: silent}
    answered, failures = ask(grid, Limits(deadline_seconds=1, poll_seconds=0.01))
    assert (answered, failures) == ([1], {2: "no reply in time"})


@pytest.mark.parametrize("others", [silent, failing])
def test_the_quorum_starts_the_grace_time(grid: ToyGrid, others: Respond) -> None:
    grid.nodes = {1: answering, 2: answering, 3: others, 4: silent}
    started = time.monotonic()
    answered, failures = ask(grid, Limits(deadline_seconds=60, quorum=0.5, grace_seconds=0.1, poll_seconds=0.01))
    assert {1, 2} <= set(answered)
    assert 4 in failures
    assert time.monotonic() - started < 30


def test_an_error_is_no_part_of_the_quorum(grid: ToyGrid) -> None:
    # Two of three would be a quorum; one is an error, so the grace time of 0 must not cut the third one off.
    replies = iter([None, None, None, answering])

    def third(message: Message) -> Message | None:
        respond = next(replies)
        return respond(message) if respond else None

    grid.nodes = {1: answering, 2: failing, 3: third}
    answered, failures = ask(grid, Limits(deadline_seconds=60, quorum=0.6, poll_seconds=0.01))
    assert (set(answered), failures) == ({1, 2, 3}, {})


def test_a_reply_that_flower_cannot_decode_is_that_nodes_failure_alone(grid: ToyGrid) -> None:
    grid.nodes = {1: undecodable, 2: answering}
    answered, failures = ask(grid, PATIENT)
    assert (answered, failures) == ([2], {1: "its reply cannot be read: no such object type"})


def test_nobody_to_ask_is_no_wait(grid: ToyGrid) -> None:
    assert ask(grid, PATIENT) == ([], {})


@pytest.mark.parametrize(("quorum", "messages", "enough"), [(0.5, 5, 3), (0.07, 100, 7), (1.0, 3, 3), (0.01, 3, 1)])
def test_a_quorum_is_rounded_up_and_never_nobody(quorum: float, messages: int, enough: int) -> None:
    assert Limits(deadline_seconds=1, quorum=quorum).enough(messages) == enough
