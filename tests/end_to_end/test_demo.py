"""`edgefl demo`, the main job, in two rounds: its report says all that is asked of it and nothing stays behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgefl.bundle import Bundle
from tests.end_to_end.devices import DEVICE_PYTHON, ROOT, SECONDS
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

TIERS = [0, 2, 5, 8, 11, 11]
NEVER_ON_A_DEVICE = {"torch", "timm", "onnx", "executorch", "flwr"}


@contextmanager
def running_demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a demo that is killed when the block ends."""
    command = [sys.executable, "-m", "edgefl", "demo", "--rounds", "2", "--device-python", str(DEVICE_PYTHON)]
    with subprocess.Popen([*command, "--out", str(folder / "out"), *options], cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the demo and return its report."""
    folder = tmp_path_factory.mktemp("demo")
    with running_demo(folder, "--json", str(folder / "report.json")) as process:
        assert process.wait(2 * SECONDS) == 0
    document: dict[str, Any] = json.loads((folder / "report.json").read_text())
    document["out"] = folder / "out"
    return document


def values(report: dict[str, Any], name: str, *labels: str) -> dict[tuple[object, ...], float]:
    """Return the values of a record's name by some of its labels."""
    records = [record for record in report["records"] if record["name"] == name]
    found = {tuple(record["labels"][label] for label in labels): record["value"] for record in records}
    assert len(found) == len(records), "no two records have the same labels"
    return found


def test_accuracy_is_told_for_every_exit_and_every_comparison(report: dict[str, Any]) -> None:
    accuracy = values(report, "accuracy", "when", "exit")

    whens = ("before", "after", "local_only", "centralised")
    expected = {(when, exit_index) for when in whens for exit_index in range(12)}
    assert set(accuracy) == expected | {("local_only", "own"), ("logistic_regression", "none")}
    assert all(0 <= value <= 1 for value in accuracy.values())
    assert accuracy["logistic_regression", "none"] > 0.9
    assert accuracy["centralised", 11] > accuracy["before", 11] + 0.1, "two epochs on all samples teach something"


def test_every_client_tells_its_traffic_and_its_memory(report: dict[str, Any]) -> None:
    clients = set(enumerate(TIERS))
    up, down, peak = (values(report, name, "client", "exit") for name in ("bytes_up", "bytes_down", "peak_rss"))

    assert set(up) == set(down) == set(peak) == clients
    assert up[0, 0] < up[5, 11], "who trains less sends less"
    assert min(down.values()) > 0
    assert min(peak.values()) > 20e6
    assert max(peak.values()) < 400e6


def test_every_round_has_all_six_replies(report: dict[str, Any]) -> None:
    assert values(report, "replies", "round") == {(1,): 6, (2,): 6}
    assert set(values(report, "round_seconds", "round")) == {(1,), (2,)}


def test_clients_and_superlink_were_processes_and_no_client_knew_torch_or_flower(report: dict[str, Any]) -> None:
    clients, superlink = report["settings"]["clients"], report["settings"]["superlink"]

    assert [client["exit"] for client in clients] == TIERS
    pids = [client["pid"] for client in clients] + [superlink["pid"]]
    assert len(set(pids)) == 7
    assert not any(psutil.pid_exists(pid) and "edgefl" in " ".join(psutil.Process(pid).cmdline()) for pid in pids)
    assert superlink["command"] == "flower-superlink"
    for client in clients:
        assert {"edgefl", "onnxruntime"} <= set(client["modules"])
        assert NEVER_ON_A_DEVICE.isdisjoint(client["modules"])


def test_the_aggregated_adapter_and_the_picture_are_there(report: dict[str, Any]) -> None:
    adapter = Bundle(report["out"] / "bundle").adapter(report["out"] / "server" / "adapter.safetensors")

    assert (adapter.version, adapter.round) == (2, 2)
    assert (report["out"] / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_a_demo_that_is_killed_takes_its_processes_with_it(tmp_path: Path) -> None:
    last_client = tmp_path / "out" / f"client-{len(TIERS) - 1}" / "log.txt"
    with running_demo(tmp_path) as process:
        wait_until(last_client.exists, SECONDS, "all clients have been started")
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        assert len(family) > len(TIERS), "server and SuperLink are among them"
        wait_until(lambda: not any(map(still_runs, family)), 60, "all of them have ended")


def still_runs(process: psutil.Process) -> bool:
    """Say whether a process has not ended; nobody may be there to take note of its end."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_output_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")

    with running_demo(tmp_path) as process:
        assert process.wait(SECONDS) == 3

    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"
