"""Load `edgefl serve` from another process with requests that arrive when they like, each with a deadline.

Deadline and load are the service's own measures in the same run: the deadline is 1.5 x the median time that exit 11,
the deepest, takes when one asks at a time; the capacity is what it answers there when eight always ask.  Both are
measured anew in each round, just before the loads, since a shared machine drifts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import click
import msgspec

from benchmarks.comparison import Progress, exported_bundle, print_table, run_script, value_of
from benchmarks.load import Load, Outcome
from benchmarks.options import write_report
from benchmarks.serve_round import Round, records_of
from benchmarks.setting import Setting
from edgefl.bundle import Bundle
from edgefl.core.report import json_option
from edgefl.errors import EdgeFLError

LOADS = ("0.3", "0.7", "2.0")
AT_CAPACITY = 8
HEADINGS = ("load", "asked", "inside\ndeadline, %", "answered, %", "mean exit", "median\nms", "p99\nms", "mean batch")


class _Loader:
    """The process that asks."""

    def __init__(self, address: str, image_size: int) -> None:
        self._address, self._image_size = address, image_size
        command = [sys.executable, "-m", "benchmarks.load"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()

    def __call__(self, **what: object) -> list[Outcome]:
        """Ask, and return how each request ended."""
        load = msgspec.convert({"address": self._address, "image_size": self._image_size, **what}, Load)
        to, back = self._process.stdin, self._process.stdout
        if to is None or back is None:
            raise EdgeFLError("the process that asks the service has no pipes")
        to.write(msgspec.json.encode(load).decode() + "\n")
        to.flush()
        line = back.readline()
        if not line:
            raise EdgeFLError("the process that asks the service has ended early")
        return msgspec.json.decode(line, type=list[Outcome])


@contextmanager
def served(folder: Path, memory: str, threads: int) -> Iterator[str]:
    """Serve a bundle and return the address."""
    command = [sys.executable, "-m", "edgefl", "serve", str(folder), "--listen", "127.0.0.1:0", "--memory", memory]
    # No signals: battery and heat of this machine have nothing to do with its load.
    trace = folder.parent / "no_signals.jsonl"
    trace.write_text('{"seconds": 0.0, "signals": {}}\n', encoding="utf-8")
    command += ["--trace", str(trace), "--max-requests", "1000"]
    environment = {**os.environ, "EDGEFL_THREADS": str(threads)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        line = process.stdout.readline() if process.stdout is not None else ""
        try:
            if not line:
                raise EdgeFLError("the service could not start, see above")
            yield line.rpartition(" at ")[2].strip()
        finally:
            process.terminate()


@click.command()
@click.option("--model", default="deit_small_patch16_224", show_default=True, help="timm's; weights are random.")
@click.option("--img-size", type=int, default=224, show_default=True, help="Pixels of a sample's side.")
@click.option("--classes", type=click.IntRange(2), default=100, show_default=True, help="Number of classes.")
@click.option("--bundle", type=click.Path(path_type=Path), help="One with exits 0-11, instead of an export.")
@click.option("--requests", type=click.IntRange(10), default=960, show_default=True, help="Of each load, in all.")
@click.option(
    "--rounds", type=click.IntRange(1), default=8, show_default=True, help="Each measures deadline and capacity."
)
@click.option("--memory", type=click.Choice(["lean", "balanced", "fast"]), default="fast", show_default=True)
@click.option("--threads", type=click.IntRange(1, 1024), default=2, show_default=True, help="Of the service.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the arrivals.")
@json_option
def serve(
    model: str,
    img_size: int,
    classes: int,
    bundle: Path | None,
    requests: int,
    rounds: int,
    memory: str,
    threads: int,
    seed: int,
    json_path: str | None,
) -> None:
    """Ask `edgefl serve` for more and more, and count what is answered in time, and how deep."""
    setting = Setting(model=model, image_size=img_size, classes=classes, batch=1)
    with ExitStack() as stack:
        progress = stack.enter_context(Progress())
        if bundle is None:
            progress(f"exporting {model}")
            bundle = stack.enter_context(exported_bundle(setting, tuple(range(12))))
        facts = Bundle(bundle).manifest
        setting = msgspec.structs.replace(
            setting, model=facts.model.name, image_size=facts.model.image_size, classes=facts.model.classes
        )
        progress("starting the service")
        address = stack.enter_context(served(bundle, memory, threads))
        loader = stack.enter_context(_Loader(address, setting.image_size))
        measured = [
            _measured(loader, facts.exits[-1], requests // rounds, seed + number, _counted(progress, number, rounds))
            for number in range(rounds)
        ]
    records = records_of(measured, facts.exits[-1])
    rows = {load: [value_of(records, name, load=load) * scale for name, scale in _COLUMNS.items()] for load in LOADS}
    deadline, capacity = value_of(records, "deadline"), value_of(records, "capacity")
    title = f"{setting.model}: deadline {deadline:.0f} ms, capacity {capacity:.1f} answers of the deepest exit a second"
    print_table(title, HEADINGS, rows, to_stderr=json_path == "-")
    if json_path:
        settings: dict[str, object] = {
            "requests": requests,
            "rounds": rounds,
            "memory": memory,
            "threads": threads,
            "seed": seed,
        }
        write_report(json_path, "benchmarks/serve.py", setting, settings, records)


def _counted(progress: Progress, number: int, rounds: int) -> Callable[[str], None]:
    return lambda text: progress(f"round {number + 1} of {rounds}: {text}")


_COLUMNS = {
    "requests": 1.0,
    "inside_deadline": 100.0,
    "answered": 100.0,
    "mean_exit": 1.0,
    "latency": 1.0,
    "latency_p99": 1.0,
    "mean_batch": 1.0,
}


def _measured(loader: _Loader, deepest: int, requests: int, seed: int, progress: Callable[[str], None]) -> Round:
    progress("one request at a time")
    alone = [1000.0 * outcome.seconds for outcome in loader(count=60, at_once=1, exit_index=deepest)[10:]]
    progress(f"{AT_CAPACITY} requests at a time")
    together = loader(count=25 * AT_CAPACITY, at_once=AT_CAPACITY, exit_index=deepest)
    capacity = len(together) / max(outcome.begun + outcome.seconds for outcome in together)
    measured = Round(alone, capacity, {})
    for load in LOADS:
        progress(f"{load} x capacity, {requests} requests")
        measured.outcomes[load] = loader(
            count=requests, per_second=float(load) * capacity, deadline_ms=measured.deadline_ms, seed=seed
        )
    return measured


if __name__ == "__main__":
    run_script(serve)
