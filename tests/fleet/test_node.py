"""A node goes on whatever the server sends or loses (edgefl/fleet/{node,delivery}.py)."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edgefl.fleet import fleet_pb2
from edgefl.fleet.content import Content
from edgefl.fleet.node import Received
from tests.fleet.device import ANSWER, ASK, ASK_NEXT, Device, asked, number_of, receive
from tests.fleet.http_server import HttpServer
from tests.fleet.loopback_fleet import LoopbackFleet
from tests.waiting import wait_until


def test_an_instruction_arrives_and_its_answer_comes_back(fleet: LoopbackFleet, device: Device) -> None:
    message_id = fleet.send(ASK)
    with device.start() as node:
        received = receive(node)
        assert received.message_type == "train"
        assert received.content.arrays["weight"].tolist() == [0.0, 1.0, 2.0]
        assert fleet.confirmed == [message_id]
        assert device.files() == {"instruction"}
        assert node.reply(received, ANSWER)
    reply = fleet.reply_to(message_id)
    assert isinstance(reply, Content)
    assert reply.arrays["weight"].tolist() == [7.0]
    assert reply.metrics == {"metrics": {"num-examples": 4}}
    assert device.files() == {"answered"}
    assert fleet.online == set(), "it said farewell"


def test_objects_that_the_server_has_are_not_sent_again(
    fleet: LoopbackFleet, server: HttpServer, device: Device
) -> None:
    fleet.send(ASK)
    with device.start() as node:
        node.reply(receive(node), Content(arrays=ASK.arrays))
    # The ArrayRecord with its Array and chunk are the server's own; RecordDict and Message are new.
    assert asked(server, "push-object") == 2


def test_a_client_that_fails_says_so(fleet: LoopbackFleet, device: Device) -> None:
    message_id = fleet.send(ASK)
    with device.start() as node:
        assert node.reply_error(receive(node), "no memory left")
    assert fleet.reply_to(message_id) == fleet_pb2.Error(code=2, reason="no memory left")


@pytest.mark.parametrize("path", ["pull-object", "confirm-message-received"])
def test_an_instruction_whose_run_ended_while_it_was_pulled_is_dropped(
    fleet: LoopbackFleet, device: Device, path: str
) -> None:
    fleet.send(ASK)
    fleet.send(ASK_NEXT)
    fleet.refusals[path] = [403]
    with device.start() as node:
        assert number_of(receive(node)) == 2


def test_an_instruction_whose_objects_are_gone_is_dropped(fleet: LoopbackFleet, device: Device) -> None:
    fleet.objects.pop(fleet.send(ASK))
    fleet.send(ASK_NEXT)
    with device.start() as node:
        assert number_of(receive(node)) == 2


def test_an_expired_instruction_is_dropped_without_pulling_it(
    fleet: LoopbackFleet, server: HttpServer, device: Device
) -> None:
    fleet.send(ASK, ttl_seconds=-1.0)
    fleet.send(ASK_NEXT)
    with device.start() as node:
        assert number_of(receive(node)) == 2
    # Message, RecordDict and ConfigRecord of the second.
    assert asked(server, "pull-object") == 3


def test_a_reply_to_a_run_that_ended_is_dropped_and_the_node_goes_on(fleet: LoopbackFleet, device: Device) -> None:
    fleet.send(ASK)
    fleet.send(ASK_NEXT)
    with device.start() as node:
        first = receive(node)
        fleet.refusals["push-messages"] = [403]
        assert not node.reply(first, ANSWER)
        assert device.files() == {"answered"}
        assert number_of(receive(node)) == 2


def test_a_hostile_instruction_is_answered_with_an_error_and_the_node_goes_on(
    fleet: LoopbackFleet, device: Device
) -> None:
    message_id = fleet.send(ASK)
    fleet.objects[message_id] = fleet.objects[message_id][:-1] + b"!"
    fleet.send(ASK_NEXT)
    with device.start() as node:
        assert number_of(receive(node)) == 2
    error = fleet.reply_to(message_id)
    assert isinstance(error, fleet_pb2.Error)
    assert "another sha256" in error.reason


def test_a_message_without_a_tree_is_answered_with_an_error(fleet: LoopbackFleet, device: Device) -> None:
    message_id = fleet.send(ASK)
    fleet.tampers["pull-messages"] = lambda answer: answer.ClearField("message_object_trees")
    with device.start() as node:
        serving = threading.Thread(target=node.receive)
        serving.start()
        wait_until(lambda: fleet.reply_to(message_id) is not None, 10, "the error is sent")
        device.stop.set()
        serving.join(10)
    error = fleet.reply_to(message_id)
    assert isinstance(error, fleet_pb2.Error)
    assert "came with the tree of ''" in error.reason


def test_a_failing_server_is_asked_again(fleet: LoopbackFleet, device: Device) -> None:
    fleet.send(ASK)
    fleet.refusals["pull-messages"] = [500] * 6
    with device.start() as node:
        assert number_of(receive(node)) == 1


def test_waiting_for_an_instruction_ends_when_told_to_stop(device: Device) -> None:
    with device.start() as node:
        results: list[Received | None] = []
        waiting = threading.Thread(target=lambda: results.append(node.receive()))
        waiting.start()
        device.stop.set()
        waiting.join(10)
    assert results == [None]


def test_a_message_larger_than_the_limit_is_refused(
    fleet: LoopbackFleet, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefl.fleet.delivery.MAX_MESSAGE_BYTES", 2000)
    message_id = fleet.send(Content(arrays={"weight": np.zeros(1000, np.float32)}))
    fleet.send(ASK_NEXT)
    with device.start() as node:
        assert number_of(receive(node)) == 2
    error = fleet.reply_to(message_id)
    assert isinstance(error, fleet_pb2.Error)
    assert "more than 2000 bytes" in error.reason
