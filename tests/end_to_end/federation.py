"""`edgefl server run` in a process of its own, and what its rounds must come to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event

import numpy as np

import edgefl
from edgefl.bundle import Adapter
from edgefl.client.session import Session
from edgefl.fleet.content import Content
from edgefl.samples import open_samples
from edgefl_server.host.state import StateFolder
from edgefl_server.rounds.aggregate import Aggregation, FloatArray
from edgefl_server.rounds.checkpoint import Checkpoint
from edgefl_server.rounds.history import RoundRecord
from edgefl_server.rounds.train_round import TrainRound
from edgefl_server.settings import Settings
from tests.end_to_end.devices import ROOT, Device
from tests.golden_bundle import CLASSES, EXITS, GOLDEN

ROUNDS = 3
SETTINGS = Settings(
    bundle=str(GOLDEN),
    state="",
    rounds=ROUNDS,
    draw="own",
    optimizer="sgd",
    learning_rate=0.5,
    momentum=0.0,
    batch_size=4,
    server_momentum=0.0,
    min_clients=len(EXITS),
    quorum=0.6,
)
OPTIONS = ["--own-exit", "--optimizer", "sgd", "--learning-rate", "0.5", "--momentum", "0", "--batch-size", "4"]
OPTIONS += ["--server-momentum", "0", "--min-clients", "3", "--quorum", "0.6", "--rounds", str(ROUNDS)]


@contextmanager
def running_server(state: StateFolder, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server; yield its process and the address it tells."""
    command = [sys.executable, "-m", "edgefl", "server", "run", "--bundle", str(GOLDEN), "--state", str(state.path)]
    with subprocess.Popen(
        [*command, *OPTIONS, "--port", str(port)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def expected_adapter(devices: Sequence[Device], rounds: Sequence[RoundRecord]) -> dict[str, FloatArray]:
    """Return what the updates that counted must come to, by training in this process."""
    model = edgefl.load(GOLDEN)
    tensors = {name: np.array(array) for name, array in model.adapter.items()}
    sessions = [
        Session(model, open_samples(str(device.samples), CLASSES), device.deepest_exit, stop=Event())
        for device in devices
    ]
    for record in rounds:
        number = record.round
        adapter = Adapter(bundle_id=model.bundle.manifest.bundle_id, version=number, round=number, tensors=tensors)
        before = Checkpoint(round=number - 1, adapter=adapter, momentum={})
        asked = TrainRound(number, dict(enumerate(EXITS)), before, SETTINGS).instructions
        aggregation = Aggregation(tensors)
        for exit_index in (reply.exit_index for reply in record.replies):
            content = Content(arrays=tensors, configs={"config": asked[exit_index].to_config()})
            aggregation.add(sessions[exit_index].answer("train", content).arrays, weight=1.0)
        tensors = dict(aggregation.result().values)
    return tensors
