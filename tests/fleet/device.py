"""A device whose client is started, crashes and is started again, and what its tests say to it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from edgefl.fleet.content import Content
from edgefl.fleet.identity import Identity
from edgefl.fleet.journal import Journal
from edgefl.fleet.node import Node, Received
from edgefl.fleet.transport import Transport
from tests.fleet.http_server import HttpServer

ASK = Content(arrays={"weight": np.arange(3, dtype=np.float32)}, configs={"config": {"round": 1}})
ASK_NEXT = Content(configs={"config": {"round": 2}})
ANSWER = Content(arrays={"weight": np.array([7.0], np.float32)}, metrics={"metrics": {"num-examples": 4}})


class Device:
    """A state folder, and one process after the other that uses it."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._transports: list[Transport] = []

    def start(self, *, heartbeat_seconds: float = 30.0, work: bytes = b"") -> Node:
        """Start a process; the one before it simply is no more."""
        journal = Journal(self._folder)
        stop = threading.Event()
        transport = Transport(self._url, Identity.load_or_create(journal.key_file), stop=stop)
        self._transports.append(transport)
        return Node(transport, journal, work=work, heartbeat_seconds=heartbeat_seconds, poll_seconds=0.01)

    @property
    def stop(self) -> threading.Event:
        """Ends the process that was started last."""
        return self._transports[-1].stop

    def files(self) -> set[str]:
        """Return the names of the journal's parcels."""
        return {path.name for path in self._folder.iterdir()} - {"identity.pem", "node.json"}

    def switch_off(self) -> None:
        """End all processes."""
        for transport in self._transports:
            transport.stop.set()
            transport.close()


def receive(node: Node) -> Received:
    received = node.receive()
    assert received is not None
    return received


def number_of(received: Received) -> object:
    return received.content.configs["config"]["round"]


def asked(server: HttpServer, path: str) -> int:
    return [request.path for request in server.asked].count(path)
