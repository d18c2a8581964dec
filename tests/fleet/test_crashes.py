"""A crash or a lost line costs no work (edgefl/fleet/{node,journal,delivery}.py)."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import Message

from edgefl.fleet import fleet_pb2
from edgefl.fleet.content import Content
from edgefl.fleet.status import StoppedError
from tests.fleet.device import ANSWER, ASK, ASK_NEXT, Device, asked, number_of, receive
from tests.fleet.http_server import HttpServer
from tests.fleet.loopback_fleet import LoopbackFleet
from tests.waiting import wait_until


def test_an_instruction_survives_a_crash_before_its_objects_arrived(fleet: LoopbackFleet, device: Device) -> None:
    message_id = fleet.send(ASK)
    content, fleet.objects[message_id] = fleet.objects[message_id], b""
    node = device.start()
    node.join()
    pulling = threading.Thread(target=node.receive)
    pulling.start()
    wait_until(lambda: device.files() == {"instruction"}, 10, "the message is on disk")
    device.stop.set()
    pulling.join(10)
    fleet.objects[message_id] = content
    with device.start() as restarted:
        assert number_of(receive(restarted)) == 1


def test_an_instruction_survives_a_crash_while_it_is_worked_on(
    fleet: LoopbackFleet, server: HttpServer, device: Device
) -> None:
    message_id = fleet.send(ASK)
    crashed = device.start()
    crashed.join()
    receive(crashed)
    # A SuperLink deletes what was confirmed.
    fleet.objects.clear()
    with device.start() as restarted:
        assert restarted.node_id == crashed.node_id
        assert restarted.reply(receive(restarted), ANSWER)
    assert isinstance(fleet.reply_to(message_id), Content)
    paths = [request.path for request in server.asked]
    rejoin = paths.index("register-node", 1)
    # No deactivation: a server that looks for the reply in between would give it up.
    assert paths[rejoin : rejoin + 3] == ["register-node", "activate-node", "send-node-heartbeat"]


def test_an_instruction_that_ends_the_process_three_times_is_given_up(fleet: LoopbackFleet, device: Device) -> None:
    message_id = fleet.send(ASK)
    for _ in range(3):
        node = device.start()
        node.join()
        receive(node)
    fleet.send(ASK_NEXT)
    with device.start() as restarted:
        assert number_of(receive(restarted)) == 2
    error = fleet.reply_to(message_id)
    assert isinstance(error, fleet_pb2.Error)
    assert "ended 3 times" in error.reason


def test_a_reply_whose_upload_was_interrupted_is_finished_by_the_next_process(
    fleet: LoopbackFleet, server: HttpServer, device: Device
) -> None:
    message_id = fleet.send(ASK)
    node = device.start()
    node.join()
    received = receive(node)

    def interrupt(_: Message) -> None:
        device.stop.set()

    fleet.tampers["push-object"] = interrupt
    with pytest.raises(StoppedError):
        node.reply(received, ANSWER)
    assert device.files() == {"reply"}
    pushed = asked(server, "push-object")
    assert 1 <= pushed < 6
    del fleet.tampers["push-object"]
    with device.start() as restarted:
        fleet.send(ASK_NEXT)
        assert number_of(receive(restarted)) == 2
    assert isinstance(fleet.reply_to(message_id), Content)
    # Message, RecordDict, ArrayRecord, Array, ArrayChunk and MetricRecord, each once.
    assert asked(server, "push-object") == 6


def test_a_crash_between_writing_the_reply_and_removing_its_instruction_costs_nothing(
    fleet: LoopbackFleet, device: Device, tmp_path: Path
) -> None:
    message_id = fleet.send(ASK)
    fleet.refusals["push-messages"] = [500] * 5
    node = device.start()
    node.join()
    received = receive(node)
    instruction = (tmp_path / "state" / "instruction").read_bytes()
    assert not node.reply(received, ANSWER), "it is kept for later"
    (tmp_path / "state" / "instruction").write_bytes(instruction)
    fleet.send(ASK_NEXT)
    with device.start() as restarted:
        assert number_of(receive(restarted)) == 2, "the first one is not worked on again"
    assert isinstance(fleet.reply_to(message_id), Content)


def test_an_object_whose_confirmation_got_lost_is_not_the_end_of_a_reply(
    fleet: LoopbackFleet, server: HttpServer, device: Device
) -> None:
    message_id = fleet.send(ASK)
    with device.start() as node:
        received = receive(node)
        fleet.tampers["push-object"] = lambda answer: setattr(answer, "stored", False)
        assert node.reply(received, ANSWER)
    assert isinstance(fleet.reply_to(message_id), Content)
    assert asked(server, "push-messages") == 2


def test_a_question_that_a_killed_server_asks_again_gets_the_same_answer_without_work(
    fleet: LoopbackFleet, device: Device
) -> None:
    fleet.send(ASK)
    node = device.start()
    node.join()
    assert node.reply(receive(node), ANSWER)
    fleet.forget_everything()
    again = fleet.send(ASK)
    fleet.send(ASK_NEXT)
    with device.start() as restarted:
        assert restarted.node_id == node.node_id + 1
        assert number_of(receive(restarted)) == 2, "the first one is not handed out again"
    answer = fleet.reply_to(again)
    assert isinstance(answer, Content)
    assert answer.arrays["weight"].tolist() == [7.0]
    assert answer.metrics == ANSWER.metrics


def test_an_answer_that_the_killed_server_never_had_is_kept_for_the_next_one(
    fleet: LoopbackFleet, device: Device
) -> None:
    fleet.send(ASK)
    with device.start() as node:
        received = receive(node)
        fleet.forget_everything()
        assert not node.reply(received, ANSWER), "it was sent to a node that is no more"
        assert device.files() == {"answered"}
        again = fleet.send(ASK)
        fleet.send(ASK_NEXT)
        assert number_of(receive(node)) == 2
    assert isinstance(fleet.reply_to(again), Content)


@pytest.mark.parametrize(
    "question",
    [
        Content(arrays={"weight": np.arange(3, dtype=np.float32) + 1}, configs=ASK.configs),
        Content(arrays=ASK.arrays, configs={"config": {"round": 2}}),
    ],
    ids=["another adapter", "another round"],
)
def test_another_question_is_worked_on(fleet: LoopbackFleet, device: Device, question: Content) -> None:
    fleet.send(ASK)
    fleet.send(question)
    with device.start() as node:
        assert node.reply(receive(node), ANSWER)
        assert node.reply(receive(node), ANSWER)


def test_the_same_question_is_worked_on_where_the_device_has_other_samples_now(
    fleet: LoopbackFleet, device: Device
) -> None:
    fleet.send(ASK)
    with device.start() as node:
        assert node.reply(receive(node), ANSWER)
    fleet.send(ASK)
    with device.start(work=b"other samples") as restarted:
        assert restarted.reply(receive(restarted), ANSWER)


def test_an_answer_without_arrays_is_given_anew(fleet: LoopbackFleet, device: Device) -> None:
    for _ in range(2):
        fleet.send(ASK)
        with device.start() as node:
            assert node.reply(receive(node), Content(configs={"properties": {"cores": 4}}))
