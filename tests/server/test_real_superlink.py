"""`edgefl server run` with a real SuperLink, a real ServerApp and edgefl's own nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgefl.bundle import Bundle
from edgefl.core.tensor_slice import TensorSlice
from edgefl.fleet.content import Content
from edgefl.fleet.identity import Identity
from edgefl.fleet.journal import Journal
from edgefl.fleet.node import Node, Received
from edgefl.fleet.transport import Transport
from edgefl.update.instruction import Instruction, ReplyHeader
from edgefl_server.host.state import StateFolder
from edgefl_server.host.superlink import choose_port
from edgefl_server.rounds.history import read_rounds
from tests.server.toy_federation import ToyDevice
from tests.toy_bundle import toy_coverage, write_toy_bundle

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from edgefl_server.command import server; server()", "run"]
SECONDS = 120


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(write_toy_bundle(tmp_path / "toy"))


@contextmanager
def server(bundle: Bundle, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server; yield its process and the address it tells."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'server'}"}
    folders = ["--bundle", str(bundle.folder), "--state", str(bundle.folder.parent / "state")]
    with subprocess.Popen(
        [*COMMAND, *folders, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert "http://" in line, process.stderr.read()
            yield process, line.split()[-1]
        finally:
            process.kill()


@contextmanager
def device(url: str, folder: Path, toy: ToyDevice) -> Iterator[None]:
    """Keep a node in the federation that learns what the toy device learns."""
    stop = threading.Event()
    journal = Journal(folder)
    transport = Transport(url, Identity.load_or_create(journal.key_file), stop=stop)
    node = Node(transport, journal, poll_seconds=0.1)

    def serve() -> None:
        with node:
            while (received := node.receive()) is not None:
                node.reply(received, answer(received, toy))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(SECONDS)


def answer(received: Received, toy: ToyDevice) -> Content:
    if received.message_type == "query.properties":
        return Content(configs={"properties": toy.properties().to_config()})
    instruction = Instruction.from_config(received.content.configs["config"])
    parts = [TensorSlice.parse(key) for key in toy_coverage(instruction.exit_index)]
    values = {part.key: received.content.arrays[part.name][part.index] + np.float32(toy.step) for part in parts}
    header = ReplyHeader(
        edgefl=1,
        bundle_id=toy.bundle_id,
        adapter_version=instruction.adapter_version,
        round=instruction.round,
        exit_index=instruction.exit_index,
        coverage=list(values),
        reply=instruction.reply,
    )
    metrics: dict[str, int | float] = {
        "num-examples": toy.num_examples,
        "loss": 0.5,
        "steps": 1,
        "train_seconds": 0.1,
        "peak_rss_bytes": 1,
    }
    return Content(arrays=values, configs={"reply": header.to_config()}, metrics={"metrics": metrics})


def test_two_devices_train_through_a_real_superlink_and_go_on_with_the_next_one(bundle: Bundle) -> None:
    state = StateFolder(bundle.folder.parent / "state")
    report = bundle.folder.parent / "report.json"
    options = ["--port", str(choose_port(0)), "--min-clients", "2", "--server-momentum", "0", "--json", str(report)]
    with ExitStack() as devices:
        for rounds in (2, 3):
            with server(bundle, "--rounds", str(rounds), *options) as (process, url):
                if rounds == 2:
                    for exit_index, step in ((0, 2.0), (5, 5.0)):
                        toy = ToyDevice(bundle.manifest.bundle_id, exit_index, step)
                        devices.enter_context(device(url, bundle.folder.parent / f"device {exit_index}", toy))
                _, said = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, said

    records = read_rounds(state.history)
    assert [(record.round, record.adapter_version, len(record.replies)) for record in records] == [
        (1, 1, 2),
        (2, 2, 2),
        (3, 3, 2),
    ]
    adapter = bundle.adapter(state.adapter)
    assert (adapter.version, adapter.round) == (3, 3)
    moved = (adapter.tensors["positions"] - bundle.adapter().tensors["positions"]).mean(axis=1)
    # Three rounds: rows 0 and 1 are the mean of both, rows 2..6 of the deeper alone, the rest nobody's.
    assert moved.tolist() == pytest.approx([3 * 3.5] * 2 + [3 * 5.0] * 5 + [0.0] * 6, abs=1e-5)
    values = {record["name"]: record["value"] for record in json.loads(report.read_text())["records"]}
    assert (values["replies"], values["bytes_up"]) == (2, records[2].bytes_up)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_server_that_is_ended_leaves_no_process_behind(bundle: Bundle, number: signal.Signals) -> None:
    with server(bundle, "--rounds", "1", "--port", "0") as (process, _):
        log = StateFolder(bundle.folder.parent / "state").server_log
        pause = threading.Event()
        for _ in range(SECONDS * 10):
            if log.exists() and "waiting for clients" in log.read_text():
                break
            pause.wait(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        assert {"flower-superlin", "flower-superexe", "flwr-serverapp"} <= {each.name()[:15] for each in family}
        process.send_signal(number)
        process.wait(SECONDS)
    for each in family:
        for _ in range(300):
            if not each.is_running() or each.status() == psutil.STATUS_ZOMBIE:
                break
            pause.wait(0.1)
        else:
            pytest.fail(f"{each} still runs")


def test_a_run_that_fails_says_what_the_server_app_said(bundle: Bundle) -> None:
    state = StateFolder(bundle.folder.parent / "state")
    state.adapter.mkdir(parents=True)  # where the ServerApp wants to put a file
    with server(bundle, "--rounds", "1", "--port", "0") as (process, _):
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode != 0
    assert "the run failed: ServerApp failed with exception: cannot write" in said
    assert "its log ends with" in said
