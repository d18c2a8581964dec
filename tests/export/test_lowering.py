"""Graphs that another process lowers are the same, and an export does not depend on that process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import onnx
import psutil
import pytest

from edgefl_export.lowering import Progress, lower_graphs
from tests.export.networks import embedded_network

GRAPHS = ("embed", "open_history", "block", "modulate", "block_exit", "answer")


def encoded(graphs: Mapping[str, onnx.ModelProto]) -> dict[str, bytes]:
    return {name: graph.SerializeToString(deterministic=True) for name, graph in graphs.items()}


def lowered(monkeypatch: pytest.MonkeyPatch, processors: int, progress: Progress) -> Mapping[str, onnx.ModelProto]:
    monkeypatch.setenv("EDGEFL_THREADS", str(processors))
    return lower_graphs(embedded_network(), GRAPHS, progress)


def nothing(*_: object) -> None:
    """Show no progress."""


def assistants() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "edgefl_export.assistant" in child.cmdline()]


def test_two_processes_lower_the_graphs_that_one_lowers(monkeypatch: pytest.MonkeyPatch) -> None:
    both, alone = lowered(monkeypatch, 2, nothing), lowered(monkeypatch, 1, nothing)

    assert list(both) == list(GRAPHS)
    assert encoded(both) == encoded(alone)
    assert assistants() == []


def test_an_assistant_that_is_killed_costs_time_and_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = []

    def kill(*_: object) -> None:
        for child in assistants() if not killed else ():
            child.kill()
            killed.append(child)

    assert list(lowered(monkeypatch, 2, kill)) == list(GRAPHS)
    assert len(killed) == 1


def test_who_is_interrupted_leaves_no_assistant(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def interrupt(*_: object) -> None:
        if seen := assistants():
            raise KeyboardInterrupt(seen)

    with pytest.raises(KeyboardInterrupt) as raised:
        lowered(monkeypatch, 2, interrupt)
    seen += raised.value.args[0]
    assert not any(child.is_running() for child in seen)


def test_an_assistant_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = tmp_path / "export.py"
    # No `if __name__ == "__main__"`: the script must run once all the same.
    script.write_text(
        "import os, psutil\nfrom tests.export.networks import embedded_network\n"
        "from edgefl_export.assistant import Assistant\n"
        "assistant = Assistant(embedded_network())\nassistant.lower('embed')\n"
        "print(psutil.Process().children()[0].pid, flush=True)\nos.kill(os.getpid(), 9)\n",
        encoding="utf-8",
    )
    roots = [str(Path(__file__).parents[2]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == -signal.SIGKILL
    (pid,) = map(int, done.stdout.split())
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=60)
