"""A client for the conformance tests: it adds one to every value; run as a script, it dies in the middle of a round."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from edgefl.fleet.content import Content
from edgefl.fleet.identity import Identity
from edgefl.fleet.journal import Journal
from edgefl.fleet.node import Node, Received
from edgefl.fleet.transport import Transport


def make_node(url: str, folder: Path, stop: threading.Event) -> Node:
    journal = Journal(folder)
    transport = Transport(url, Identity.load_or_create(journal.key_file), stop=stop)
    return Node(transport, journal, poll_seconds=0.1)


def answer(received: Received, name: str) -> Content:
    if received.message_type == "query.properties":
        return Content(configs={"properties": {"edgefl": 1, "client": name, "memory_bytes": 2**33}})
    config = received.content.configs["config"]
    return Content(
        arrays={key: array + 1 for key, array in received.content.arrays.items()},
        configs={"reply": {"client": name, "round": config["round"], "coverage": list(received.content.arrays)}},
        metrics={"metrics": {"num-examples": 7, "loss": 0.25}},
    )


def serve(node: Node, name: str) -> None:
    """Answer everything until the node is told to stop."""
    with node:
        while (received := node.receive()) is not None:
            node.reply(received, answer(received, name))


def main() -> None:
    url, folder, name, last_round = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    node = make_node(url, folder, threading.Event())
    node.join()
    while (received := node.receive()) is not None:
        if received.content.configs.get("config", {}).get("round") == last_round:
            os.kill(os.getpid(), signal.SIGKILL)
        node.reply(received, answer(received, name))


if __name__ == "__main__":
    main()
