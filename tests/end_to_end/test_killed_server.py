"""A server that is killed in the middle of a round, beside clients that go on, and started again."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgefl.bundle import Bundle
from edgefl_server.host.state import StateFolder
from edgefl_server.rounds.history import read_rounds
from tests.end_to_end.devices import SECONDS, Device, make_device
from tests.end_to_end.federation import ROUNDS, expected_adapter, running_server
from tests.fleet.http_server import free_port
from tests.golden_bundle import EXITS, GOLDEN
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def answer_of(device: Device) -> bytes:
    """Return what a device finished last."""
    path = device.folder / "state" / "answered"
    return path.read_bytes() if path.exists() else b""


def test_no_update_is_lost_or_counted_twice_when_the_server_is_killed_and_started_again(tmp_path: Path) -> None:
    state, port = StateFolder(tmp_path / "server"), free_port()
    # The deepest has so much to do that the round is still open when the first one has finished.
    devices = [make_device(tmp_path / f"tier-{e}", e, num_examples=6 + 300 * e) for e in EXITS]
    with ExitStack() as stack:
        with running_server(state, port) as (server, url):
            for device in devices:
                stack.enter_context(device.running(url))
            wait_until(lambda: len(read_rounds(state.history)) == 1, SECONDS, "the first round is done")
            first = answer_of(devices[0])
            wait_until(lambda: answer_of(devices[0]) != first, SECONDS, "the shallow client has finished the second")
            family = psutil.Process(server.pid).children(recursive=True)
            server.kill()
        assert len(read_rounds(state.history)) == 1, "it died in the second round"
        psutil.wait_procs(family, timeout=SECONDS)
        assert not any(process.is_running() for process in family), "nothing of the dead server goes on"
        restarted, _ = stack.enter_context(running_server(state, port))
        assert restarted.wait(SECONDS) == 0

    rounds = read_rounds(state.history)
    assert [(each.round, len(each.replies)) for each in rounds] == [(number, 3) for number in range(1, ROUNDS + 1)]
    assert "the server has lost the last answer; it gets it again" in (devices[0].folder / "log.txt").read_text()
    found = Bundle(GOLDEN).adapter(state.adapter).tensors
    for name, expected in expected_adapter(devices, rounds).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
