"""Measure exits, each in a child process, and turn what comes back into records."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from edgefl.bundle import Bundle
from edgefl.bundle.program import with_knob
from edgefl.core.exits import check_exits
from edgefl.core.report import Label, Record
from edgefl.errors import EdgeFLError
from edgefl.measure.child import Raw, Task
from edgefl.measure.memory import ANONYMOUS_METHOD
from edgefl.runtime.threads import allowed_threads

__all__ = ["Mode", "measure_exits"]

Mode = Literal["infer", "train"]


def measure_exits(
    bundle: Bundle, exits: Sequence[int], mode: Mode, batch: int, memory: str | None, repetitions: int
) -> Iterator[list[Record]]:
    """Measure one exit after the other, each when the one before it has been taken.

    Args:
        bundle: The bundle, its files already checked.
        exits: The exits.
        mode: Inference or a local step.
        batch: Samples of one inference or local step.
        memory: Memory knob; None for the programs themselves, which are `balanced`.
        repetitions: Timed runs of each exit.

    Returns:
        The records of one exit at a time.

    Raises:
        ExitsError: If the bundle does not have an exit.
        UnknownProgramError: If it does not have the memory knob.
        EdgeFLError: If a child process ends without an answer, for example because memory ran out.
    """
    allowed_threads()  # a child could only fail
    check_exits(tuple(exits), tuple(bundle.manifest.exits), f"bundle {bundle.folder.name}")
    tasks = [
        Task(folder=str(bundle.folder), mode=mode, exit_index=e, batch=batch, memory=memory, repetitions=repetitions)
        for e in exits
    ]
    for task in tasks:
        bundle.program(_name(task))
    return _measure(bundle, tasks)


def _name(task: Task) -> str:
    return with_knob(f"{task.mode}/{task.exit_index}", task.memory)


def _measure(bundle: Bundle, tasks: Sequence[Task]) -> Iterator[list[Record]]:
    baseline = _run(Task(folder=str(bundle.folder), mode="baseline"))
    for task in tasks:
        yield _records(bundle, task, _run(task), baseline)


def _run(task: Task) -> Raw:
    command = [sys.executable, "-m", "edgefl.measure.child"]
    done = subprocess.run(command, input=msgspec.json.encode(task), capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        reason = said.rpartition("Error: ")[2] or f"status {done.returncode}"
        raise EdgeFLError(
            f"the process that measured {task.mode} at exit {task.exit_index}, batch {task.batch}, ended early: "
            f"{reason}; if memory ran out, try a smaller --batch-size"
        )
    return msgspec.json.decode(done.stdout, type=Raw)


def _records(bundle: Bundle, task: Task, raw: Raw, baseline: Raw) -> list[Record]:
    labels: dict[str, Label] = {"exit": task.exit_index, "mode": task.mode, "batch": task.batch}
    labels["memory"] = task.memory or "balanced"
    cost = bundle.manifest.costs[_name(task)]
    milliseconds = [1000.0 * seconds for seconds in raw.seconds]
    p95 = statistics.quantiles(milliseconds, n=20, method="inclusive")[-1] if len(milliseconds) > 1 else milliseconds[0]
    return [
        Record(name="peak_rss", unit="byte", value=raw.peak_rss, labels=labels, method="VmHWM of a child process"),
        Record(name="baseline_rss", unit="byte", value=baseline.peak_rss, labels=labels, method="the imports alone"),
        Record(name="anonymous_peak", unit="byte", value=raw.anonymous_peak, labels=labels, method=ANONYMOUS_METHOD),
        Record(
            name="baseline_anonymous",
            unit="byte",
            value=baseline.anonymous_peak,
            labels=labels,
            method="RssAnon after the imports alone",
        ),
        Record(
            name="mapped_weights",
            unit="byte",
            value=raw.mapped_weights,
            labels=labels,
            method="Rss in smaps after a run",
        ),
        Record(
            name="latency",
            unit="ms",
            value=statistics.median(milliseconds),
            min=min(milliseconds),
            max=max(milliseconds),
            repetitions=len(milliseconds),
            labels=labels,
        ),
        Record(name="latency_p95", unit="ms", value=p95, repetitions=len(milliseconds), labels=labels),
        Record(name="parameters", unit="1", value=cost.parameters, labels=labels),
        Record(name="trainable_parameters", unit="1", value=cost.trainable_parameters, labels=labels),
        Record(name="macs", unit="1", value=cost.macs, labels=labels, method="counted, one sample"),
        Record(name="planned_bytes", unit="byte", value=cost.planned_bytes, labels=labels, method="counted"),
        Record(name="load_bytes", unit="byte", value=_load_bytes(bundle, task), labels=labels, method="counted"),
    ]


def _load_bytes(bundle: Bundle, task: Task) -> int:
    """Return the bytes of the graphs and tensors that the program reads."""
    packs = bundle.packs(_name(task))
    graphs = [bundle.manifest.graphs[call.graph] for call in bundle.program(_name(task)).calls]
    files = {graph.packed.file if packs and graph.packed is not None else graph.file for graph in graphs}
    tensors = 4 * bundle.manifest.costs[_name(task)].parameters
    return tensors + sum(bundle.manifest.files[file].size for file in files)
