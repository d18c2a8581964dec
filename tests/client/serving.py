"""A client with a real node in a thread, on a loopback fleet: what its tests send to it and get back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgefl.bundle import Bundle
from edgefl.client.service import serve
from edgefl.client.session import Session
from edgefl.core.record_values import ConfigValue
from edgefl.fleet import fleet_pb2
from edgefl.fleet.content import Content
from edgefl.runtime.weights import FloatArray
from edgefl.samples.arrays import ArraySamples
from tests.fleet.device import Device
from tests.fleet.http_server import HttpServer
from tests.fleet.loopback_fleet import LoopbackFleet
from tests.golden_bundle import CLASSES, GOLDEN, random_samples, trained_adapter, trained_model
from tests.waiting import wait_until

BUNDLE_ID = Bundle(GOLDEN).manifest.bundle_id
NUM_EXAMPLES = 10


def instruction(**changes: ConfigValue) -> dict[str, ConfigValue]:
    """Return an instruction that fits the golden bundle: two epochs of 4 + 4 + 2 samples at exit 1."""
    asked: dict[str, ConfigValue] = {
        "edgefl": 1,
        "bundle_id": BUNDLE_ID,
        "adapter_version": 3,
        "round": 4,
        "exit_index": 1,
        "draw": "own",
        "seed": 0,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "clip": 0.0,
        "epochs": 2,
        "batch_size": 4,
        "deadline_seconds": 60.0,
        "reply": "values",
    }
    return asked | changes


def sent_adapter() -> dict[str, FloatArray]:
    """Return what a server sends: read-only arrays, other values than the device's own."""
    sent = {name: array + np.float32(0.5) for name, array in trained_adapter().items()}
    for array in sent.values():
        array.flags.writeable = False
    return sent


def train_content(**changes: ConfigValue) -> Content:
    """Return a `train` message's content."""
    return Content(arrays=sent_adapter(), configs={"config": instruction(**changes)})


class Client:
    """A session that serves.

    Attributes:
        fleet: The server's side.
        device: The device's state folder.
        session: What answers.
    """

    def __init__(self, fleet: LoopbackFleet, device: Device, session: Session) -> None:
        self.fleet = fleet
        self.device = device
        self.session = session

    def ask(self, content: Content, message_type: str = "train") -> Content | fleet_pb2.Error:
        """Send a message and wait for its answer."""
        return self.answer_to(self.fleet.send(content, message_type=message_type))

    def answer_to(self, message_id: str) -> Content | fleet_pb2.Error:
        """Wait for the answer to a message."""
        wait_until(lambda: self.fleet.reply_to(message_id) is not None, 30, "an answer")
        answer = self.fleet.reply_to(message_id)
        assert answer is not None
        return answer


@contextmanager
def serving_client(folder: Path, deepest_exit: int = 2) -> Iterator[Client]:
    """Keep a client in a federation of its own until the block ends.

    Args:
        folder: For its state.
        deepest_exit: What it affords.
    """
    fleet = LoopbackFleet()
    with HttpServer(fleet.decide) as server:
        device = Device(server.url, folder / "state")
        node = device.start()
        samples = ArraySamples(*random_samples(NUM_EXAMPLES), CLASSES)
        session = Session(trained_model(), samples, deepest_exit, stop=device.stop)

        def run() -> None:
            with node:
                serve(node, session)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield Client(fleet, device, session)
        finally:
            device.switch_off()
            thread.join(30)
        assert not thread.is_alive()
