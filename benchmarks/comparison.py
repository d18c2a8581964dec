"""Compare sides in one run: the same answer first, then a step of each in turn, round after round."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import click
import numpy as np
import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.setting import Setting
from benchmarks.sides import Task
from benchmarks.worker import Reply, Worker
from edgefl.core.report import Label, Record
from edgefl.errors import EdgeFLError, ParityError

__all__ = [
    "Measured",
    "Progress",
    "Side",
    "check_same_answers",
    "exported_bundle",
    "load_record",
    "print_table",
    "ratio_records",
    "run_export",
    "run_script",
    "side_records",
    "take_turns",
    "time_record",
    "value_of",
]

_TOLERANCE, _FLOOR = 1e-4, 1e-3
_UNTIMED_BEFORE_ALL = 2
_TABLE_WIDTH = 130

Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a comparison.

    Attributes:
        labels: What its records are labelled with.
        task: What it does.
        untimed: Steps before the timed ones of each turn.
        timed: Timed steps of each turn.
    """

    labels: Mapping[str, Label]
    task: Task
    untimed: int = 0
    timed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of a side.

    Attributes:
        labels: The side's.
        seconds: Of each timed step in the order of the rounds, by the name of the part.
        peak_rss: Most resident bytes of its process.
        baseline_rss: The same after its imports.
    """

    labels: Mapping[str, Label]
    seconds: Mapping[str, Sequence[float]]
    peak_rss: int
    baseline_rss: int


class Progress:
    """Says on standard error what is being done."""

    def __init__(self) -> None:
        self._status = Console(stderr=True).status("starting")

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._status.stop()

    def __call__(self, what: str) -> None:
        """Show what is being done now."""
        self._status.update(what)


@contextmanager
def exported_bundle(setting: Setting, exits: tuple[int, ...]) -> Iterator[Path]:
    """Export the bundle of a setting with the command a user has, into a folder that is gone at the end."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "bundle")
        run_export(setting, exits, "--out", str(out))
        yield out


def run_export(setting: Setting, exits: tuple[int, ...], *options: str) -> None:
    """Run `edgefl export` in a process of its own; where it refuses, end with its words and its exit code."""
    command = [sys.executable, "-m", "edgefl", "export", *setting.export_options(exits), *options]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        click.echo(done.stderr.rstrip(), err=True)
        raise click.exceptions.Exit(done.returncode)


def check_same_answers(sides: Mapping[str, Side]) -> None:
    """Let each side compute once, in a process that is not measured, and compare it with side `torch`.

    Raises:
        ParityError: If a difference is above 1e-4, relative to torch's; a norm below 1e-3 counts as 1e-3.
    """
    reference = _answer(sides["torch"])
    for name, side in sides.items():
        if name == "torch":
            continue
        found = _answer(side)
        for key, expected in reference.items():
            difference = _relative(found[key], expected)
            if not difference <= _TOLERANCE:
                raise ParityError(
                    f"{name} at exit {side.task.exit_index}: {key} is off by {difference:.1e} of torch's, at most "
                    f"{_TOLERANCE:.0e} is accepted; nothing was measured. If the model has changed, remove the --cache"
                )


def _answer(side: Side) -> Arrays:
    with tempfile.TemporaryDirectory() as folder, Worker(side.task) as worker:
        answer = worker.answer(Path(folder, "answer.safetensors"))
        return {name: np.array(array) for name, array in answer.items()}


def _relative(value: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(value - reference) / (np.linalg.norm(reference) + _FLOOR))


def take_turns(sides: Mapping[str, Side], rounds: int) -> tuple[dict[str, Measured], float]:
    """Time a turn of each side in every round, all processes alive; the round's first side changes from round to round.

    Returns:
        What was measured, and how many processors other processes kept busy meanwhile.

    Raises:
        EdgeFLError: If a process ends early.
    """
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(side.task)) for name, side in sides.items()}
        for worker in workers.values():
            worker.turn(timed=0, untimed=_UNTIMED_BEFORE_ALL)
        replies: dict[str, list[Reply]] = {name: [] for name in sides}
        names = list(sides)
        started, others_before = time.monotonic(), _others_seconds(workers.values())
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                replies[name].append(workers[name].turn(timed=sides[name].timed, untimed=sides[name].untimed))
        load = (_others_seconds(workers.values()) - others_before) / (time.monotonic() - started)
    return {name: _measured(side, replies[name]) for name, side in sides.items()}, max(0.0, load)


def _others_seconds(workers: Iterable[Worker]) -> float:
    """Return what all processes but the sides' have had of the processors since the machine started."""
    times = psutil.cpu_times()
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
    return float(busy) - sum(worker.processor_seconds() for worker in workers)


def _measured(side: Side, replies: Sequence[Reply]) -> Measured:
    parts = replies[0].seconds
    return Measured(
        labels=side.labels,
        seconds={part: [seconds for reply in replies for seconds in reply.seconds[part]] for part in parts},
        peak_rss=replies[-1].peak_rss,
        baseline_rss=replies[-1].baseline_rss,
    )


def time_record(name: str, seconds: Sequence[float], labels: Mapping[str, Label]) -> Record:
    """Return timed steps as a record in ms."""
    milliseconds = [1000.0 * each for each in seconds]
    return Record(
        name=name,
        unit="ms",
        value=statistics.median(milliseconds),
        min=min(milliseconds),
        max=max(milliseconds),
        repetitions=len(milliseconds),
        labels=dict(labels),
    )


def side_records(name: str, measured: Measured) -> list[Record]:
    """Return the time of a side's step under a name, and its process's memory."""
    labels = dict(measured.labels)
    return [
        time_record(name, measured.seconds["step"], labels),
        Record(name="peak_rss", unit="byte", value=measured.peak_rss, labels=labels, method="VmHWM of its process"),
        Record(
            name="baseline_rss", unit="byte", value=measured.baseline_rss, labels=labels, method="its imports alone"
        ),
    ]


def load_record(exit_index: int, load: float) -> Record:
    """Return what disturbed the sides of an exit."""
    return Record(name="load_elsewhere", unit="1", value=load, labels={"exit": exit_index})


def ratio_records(name: str, edgefl: Measured, other: Measured, against: str) -> list[Record]:
    """Return edgefl's time and memory divided by another side's; the time's is the median over the rounds."""
    labels = {**edgefl.labels, "against": against}
    del labels["side"]
    pairs = zip(edgefl.seconds["step"], other.seconds["step"], strict=True)
    ratios = [mine / others for mine, others in pairs]
    return [
        Record(
            name=name,
            unit="1",
            value=statistics.median(ratios),
            min=min(ratios),
            max=max(ratios),
            repetitions=len(ratios),
            labels=labels,
            method="edgefl / other in each round",
        ),
        Record(name="peak_rss_ratio", unit="1", value=edgefl.peak_rss / other.peak_rss, labels=labels),
    ]


def value_of(records: Sequence[Record], name: str, **labels: Label) -> float:
    """Return the value of the one record that has a name and labels; NaN where there is none."""
    found = [r.value for r in records if r.name == name and labels.items() <= r.labels.items()]
    return found[0] if found else math.nan


def print_table(title: str, headings: Sequence[str], rows: Mapping[str, Sequence[float]], *, to_stderr: bool) -> None:
    """Print a row of numbers for each exit, whose name comes first; NaN is left blank."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, values in rows.items():
        table.add_row(name, *(_short(value) for value in values))
    console = Console(stderr=to_stderr)
    console.width = max(console.width, _TABLE_WIDTH)
    console.print(table)


def _short(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def run_script(script: click.Command) -> None:
    """Run a benchmark and end the process with edgefl's exit codes."""
    try:
        sys.exit(script.main(standalone_mode=False) or 0)
    except EdgeFLError as error:
        click.echo(f"edgefl: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("edgefl: interrupted", err=True)
        sys.exit(130)
