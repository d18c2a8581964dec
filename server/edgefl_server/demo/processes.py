"""The processes of the demo: edgefl's own commands, each in the environment it would have in real life.

None of them outlives the demo, however that ends (`edgefl_server.host.tether`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgefl.errors import EdgeFLError, MissingExtraError

__all__ = ["Client", "Federation", "export_bundle", "run_federation"]

_STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One simulated device, which is a real client process.

    Attributes:
        samples: Its image folder.
        deepest_exit: The deepest exit it affords.
        folder: Where its state, log and report go.
    """

    samples: Path
    deepest_exit: int
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """What a federation left behind.

    Attributes:
        adapter: The aggregated adapter.
        server: The server's report.
        clients: The clients' reports, in their order.
    """

    adapter: Path
    server: dict[str, Any]
    clients: list[dict[str, Any]]


def export_bundle(out: Path, seed: int, parallel_adapter_rank: int, classes: int) -> None:
    """Run `edgefl export --exits 0-11` with the embedded backbone."""
    options = ["--exits", "0-11", "--out", str(out), "--seed", str(seed), "--classes", str(classes), "--force"]
    # As many samples at once as a local step has: the clients train with --memory fast.
    options += ["--parallel-adapters", str(parallel_adapter_rank), "--batch-size", "32"]
    done = subprocess.run(_tethered([sys.executable, "-m", "edgefl", "export", *options]), check=False)
    if done.returncode:
        raise EdgeFLError(f"edgefl export ended with {done.returncode}; its message is above")


def run_federation(
    bundle: Path, clients: Sequence[Client], state: Path, rounds: int, seed: int, device_python: Path
) -> Federation:
    """Run server and clients until all rounds are done.

    Args:
        bundle: The bundle.
        clients: The clients.
        state: The server's state folder.
        rounds: Number of rounds.
        seed: Of the instructions.
        device_python: Interpreter of the environment that holds nothing but what a device installs.

    Raises:
        MissingExtraError: If that environment is not there.
        EdgeFLError: If server or client end early.
    """
    if not device_python.exists():
        raise MissingExtraError(
            f"{device_python} is not there: make the device's environment with `make .venv-device`, or pass "
            "--device-python with the interpreter of one that holds `pip install edgefl`"
        )
    with ExitStack() as stack:
        server, url = stack.enter_context(_server(bundle, state, rounds, len(clients), seed))
        running = [stack.enter_context(_client(bundle, url, client, device_python)) for client in clients]
        _wait(server, running, clients)
        for process in running:
            _stop(process)
    return Federation(
        adapter=state / "adapter.safetensors",
        server=msgspec.json.decode((state / "report.json").read_bytes()),
        clients=[msgspec.json.decode((client.folder / "report.json").read_bytes()) for client in clients],
    )


@contextmanager
def _server(
    bundle: Path, state: Path, rounds: int, min_clients: int, seed: int
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start `edgefl server run`, whose progress bar stays on this terminal, and read its address."""
    state.mkdir(mode=0o700)
    options = ["--bundle", bundle, "--rounds", rounds, "--state", state, "--port", 0, "--seed", seed]
    options += ["--min-clients", min_clients, "--quorum", 1.0, "--json", state / "report.json"]
    command = [sys.executable, "-m", "edgefl", "server", "run", *map(str, options)]
    with _process(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if "http://" in line:
                yield process, line.split()[-1]
                return
        raise EdgeFLError(f"edgefl server run ended with {process.wait()} before it was ready; its message is above")


@contextmanager
def _client(bundle: Path, url: str, client: Client, python: Path) -> Iterator[subprocess.Popen[bytes]]:
    client.folder.mkdir(parents=True, exist_ok=True)
    options = ["--server", url, "--bundle", bundle, "--samples", client.samples, "--state", client.folder / "state"]
    options += ["--deepest-exit", client.deepest_exit, "--memory", "fast", "--json", client.folder / "report.json"]
    command = [str(python), "-m", "edgefl", "client", "run", *map(str, options)]
    # Six devices share this machine's cores: with one thread each they do not wait for each other's spinning ones.
    environment = {**os.environ, "EDGEFL_THREADS": "1"}
    with (client.folder / "log.txt").open("wb") as log, _process(command, stderr=log, env=environment) as process:
        yield process


@contextmanager
def _process(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a process that does not outlive this block."""
    process = subprocess.Popen(_tethered(command), **options)
    try:
        yield process
    finally:
        _stop(process)


def _tethered(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "edgefl_server.host.tether", str(os.getpid()), *command]


def _wait(server: subprocess.Popen[str], running: Sequence[subprocess.Popen[bytes]], clients: Sequence[Client]) -> None:
    """Wait for the server's end, and notice a client that ends before it."""
    while True:
        try:
            code = server.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            for process, client in zip(running, clients, strict=True):
                if process.poll() is not None:
                    raise EdgeFLError(f"a client ended early; see {client.folder / 'log.txt'}") from None
            continue
        if code:
            raise EdgeFLError(f"edgefl server run ended with {code}; its message is above")
        return


def _stop(process: subprocess.Popen[Any]) -> None:
    """Ask a process to end, and make it after a while."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
