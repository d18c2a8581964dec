"""The node against a real stock SuperLink: values arrive, crashes and restarts cost nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefl.fleet.node import Node
from tests.flower import training_client
from tests.flower.superlink import SuperLink
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[SuperLink]:
    with SuperLink(tmp_path) as running:
        yield running


class Clients:
    """Clients in threads of this process."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, folder: Path, name: str) -> Node:
        """Start a client with a state folder."""
        node = training_client.make_node(self._url, folder, self._stop)
        self._threads.append(threading.Thread(target=training_client.serve, args=(node, name), daemon=True))
        self._threads[-1].start()
        return node

    def stop(self) -> None:
        """End all of them and wait until they have said farewell."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture
def clients(superlink: SuperLink) -> Iterator[Clients]:
    started = Clients(superlink.url)
    yield started
    started.stop()


def test_a_federation_finishes_although_one_device_loses_power_in_the_middle_of_a_round(
    tmp_path: Path, superlink: SuperLink, clients: Clients
) -> None:
    clients.start(tmp_path / "steady", "steady")
    command = [sys.executable, training_client.__file__, superlink.url, str(tmp_path / "fragile"), "fragile", "2"]
    with subprocess.Popen(command, env={"PYTHONPATH": str(ROOT)}) as fragile:
        try:
            superlink.submit(tmp_path / "results.json")
            fragile.wait(90)
        finally:
            fragile.kill()
    assert (tmp_path / "fragile" / "instruction").exists(), "it died with an instruction in its hands"
    clients.start(tmp_path / "fragile", "fragile, restarted")
    wait_until((tmp_path / "results.json").exists, 60, f"the run ends; the server says {superlink.log()[-3000:]}")

    results = json.loads((tmp_path / "results.json").read_text())
    assert sorted(p["client"] for p in results["properties"]) == ["fragile", "steady"]
    assert all(p["memory_bytes"] == 8589934592 for p in results["properties"])
    first, second = results["rounds"]
    assert sorted(r["reply"]["client"] for r in first) == ["fragile", "steady"]
    assert sorted(r["reply"]["client"] for r in second) == ["fragile, restarted", "steady"]
    assert all(r["metrics"] == {"num-examples": 7, "loss": 0.25} for r in first + second)
    assert all(r["reply"]["coverage"] == ["row", "zeros"] for r in first + second)
    # Two rounds of adding one to 0..4 and to zeros.
    assert results["final"] == {"row": [2.0, 6.0], "zeros": [2.0, 2.0]}


def test_nodes_come_back_by_themselves_when_the_server_was_killed_and_restarted(
    tmp_path: Path, superlink: SuperLink, clients: Clients
) -> None:
    nodes = [clients.start(tmp_path / name, name) for name in ("a", "b")]
    wait_until(lambda: all(node.node_id for node in nodes), 30, "both nodes have joined")
    ids = [node.node_id for node in nodes]

    superlink.kill()
    superlink.start()
    superlink.submit(tmp_path / "results.json")
    wait_until((tmp_path / "results.json").exists, 90, f"the run ends; the server says {superlink.log()[-3000:]}")

    assert [node.node_id for node in nodes] == ids
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["final"] == {"row": [2.0, 6.0], "zeros": [2.0, 2.0]}
