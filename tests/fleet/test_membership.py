"""A device keeps its place in the federation (edgefl/fleet/membership.py)."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edgefl.fleet.identity import Identity
from edgefl.fleet.status import NotActiveError
from tests.fleet.device import ANSWER, ASK, ASK_NEXT, Device, asked, number_of, receive
from tests.fleet.http_server import HttpServer
from tests.fleet.loopback_fleet import LoopbackFleet
from tests.waiting import wait_until


def test_a_server_that_forgot_everything_is_joined_again_as_another_node(fleet: LoopbackFleet, device: Device) -> None:
    fleet.send(ASK)
    with device.start() as node:
        first_id = node.node_id
        received = receive(node)
        fleet.forget_everything()
        fleet.send(ASK_NEXT)
        assert number_of(receive(node)) == 1, "the old instruction is handed out until it is answered"
        fleet.refusals["push-messages"] = [401, 403]
        assert not node.reply(received, ANSWER)
        assert node.node_id == first_id + 1
        assert number_of(receive(node)) == 2


def test_heartbeats_bring_a_forgotten_node_back_while_the_client_is_busy(fleet: LoopbackFleet, device: Device) -> None:
    with device.start(heartbeat_seconds=0.05) as node:
        first_id = node.node_id
        fleet.forget_everything()
        wait_until(lambda: fleet.online == {first_id + 1}, 10, "the node is online under a new id")
        wait_until(lambda: node.node_id == first_id + 1, 10, "the node knows its new id")


def test_heartbeats_go_on_after_a_failure(fleet: LoopbackFleet, server: HttpServer, device: Device) -> None:
    fleet.refusals["send-node-heartbeat"] = [500, 503]
    with device.start(heartbeat_seconds=0.05):
        wait_until(lambda: asked(server, "send-node-heartbeat") >= 4, 10, "heartbeats go on")


def test_a_process_that_is_told_to_stop_beats_no_more(device: Device) -> None:
    before = set(threading.enumerate())
    node = device.start(heartbeat_seconds=0.05)
    node.join()
    (heart,) = (thread for thread in set(threading.enumerate()) - before if thread.name == "edgefl-heartbeat")
    device.stop.set()
    heart.join(10)
    assert not heart.is_alive()


def test_a_device_that_the_operator_registered_joins_where_devices_may_not_register(
    fleet: LoopbackFleet, device: Device, tmp_path: Path
) -> None:
    fleet.self_registration = False
    node = device.start()
    with pytest.raises(NotActiveError, match="its key is not registered"):
        node.join()
    fleet.nodes[Identity.load_or_create(tmp_path / "state" / "identity.pem").public_key_pem] = 42
    with device.start() as registered:
        assert registered.node_id == 42


def test_a_node_can_have_itself_forgotten(fleet: LoopbackFleet, device: Device) -> None:
    node = device.start()
    node.join()
    node.close(unregister=True)
    assert fleet.nodes == {}
