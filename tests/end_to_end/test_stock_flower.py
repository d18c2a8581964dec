"""A stock SuperLink with stock FedAvg, which knows nothing of edgefl, trains the adapter on edgefl's clients."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from threading import Event

import numpy as np
import pytest

import edgefl
from edgefl.client.session import Session
from edgefl.fleet.content import Content
from edgefl.samples import open_samples
from tests.end_to_end.devices import SECONDS, Device, make_device
from tests.flower.superlink import SuperLink
from tests.golden_bundle import CLASSES, GOLDEN
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def expected_adapter(devices: list[Device]) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Return what two rounds of averaging whole adapters, weighted by the number of samples, come to."""
    model = edgefl.load(GOLDEN)
    sessions = [Session(model, open_samples(str(d.samples), CLASSES), d.deepest_exit, stop=Event()) for d in devices]
    tensors = {name: np.array(array) for name, array in model.adapter.items()}
    for _ in range(2):
        replies = [session.answer("train", Content(arrays=tensors)) for session in sessions]
        weights = [reply.metrics["metrics"]["num-examples"] for reply in replies]
        assert weights == [6, 12]
        tensors = {
            name: np.average([reply.arrays[name] for reply in replies], axis=0, weights=weights).astype(np.float32)
            for name in tensors
        }
    return tensors


def test_stock_fedavg_averages_the_whole_adapters_of_two_clients(tmp_path: Path) -> None:
    devices = [make_device(tmp_path / f"tier-{e}", e, num_examples=n) for e, n in ((0, 6), (2, 12))]
    results = tmp_path / "results.npz"
    with SuperLink(tmp_path) as superlink, ExitStack() as stack:
        for device in devices:
            stack.enter_context(device.running(superlink.url))
        superlink.submit(results, app="fedavg_app")
        wait_until(results.exists, SECONDS, f"the run ends; the server says {superlink.log()[-3000:]}")

    found = np.load(results)
    for name, expected in expected_adapter(devices).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-5, err_msg=name)
    exported = edgefl.load(GOLDEN).adapter
    assert (found["head.mlp.fc2.weight"] != exported["head.mlp.fc2.weight"]).all()
