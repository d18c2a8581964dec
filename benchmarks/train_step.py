"""Time one training step of edgefl beside torch and beside the whole step as one ONNX graph.

A step is the loss and gradient of one batch and SGD with momentum 0.9.  Every side has a process of its own; they take
turns.  The matrix products of the step's shapes take turns with them, because what a step can reach is a matter of the
same machine in the same minutes.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import click
from msgspec.structs import replace

from benchmarks.comparison import (
    Measured,
    Progress,
    Side,
    check_same_answers,
    exported_bundle,
    load_record,
    print_table,
    ratio_records,
    run_script,
    side_records,
    take_turns,
    time_record,
    value_of,
)
from benchmarks.one_graph import Recipe, cached_graph
from benchmarks.options import model_options, peer_options, write_report
from benchmarks.products import Shape, peak_macs_per_second, product_shapes
from benchmarks.setting import Setting
from benchmarks.sides import LEARNING_RATE, MOMENTUM, Task
from edgefl.bundle import Bundle
from edgefl.core.exits import parse_exits
from edgefl.core.report import Record

KNOBS = ("fast", "balanced", "lean")
PEERS = ("torch", "one-graph")
HEADINGS = (
    *(
        "exit",
        "fast\nms",
        "balanced\nms",
        "lean\nms",
        "torch\nms",
        "one-graph\nms",
        "fast /\ntorch",
        "fast /\none-graph",
    ),
    *("of matmul\npeak", "fast\nMB", "lean\nMB", "torch\nMB", "one-graph\nMB", "load\nelsewhere"),
)


@click.command()
@model_options(exits="0,1,2,5,8,11", image_size=160, batch=10, repetitions=20)
@peer_options()
def train_step(
    model: str,
    exits: str,
    img_size: int,
    batch_size: int,
    classes: int,
    threads: int,
    repetitions: int,
    cache: Path,
    json_path: str | None,
) -> None:
    """Compare one training step of edgefl with torch's and with the whole step as one ONNX graph."""
    wanted = parse_exits(exits)
    setting = Setting(model=model, image_size=img_size, classes=classes, batch=batch_size)
    records: list[Record] = []
    rows: dict[str, list[float]] = {}
    with Progress() as progress:
        progress(f"exporting {model}")
        with exported_bundle(setting, wanted) as folder:
            manifest = Bundle(folder).manifest
            shapes = product_shapes(manifest.model, batch_size)
            for e in wanted:
                progress(f"tracing the whole step of exit {e} into one graph: minutes, unless {cache} has it")
                sides = _sides(
                    setting,
                    e,
                    threads,
                    folder,
                    cached_graph(cache, Recipe(mode="train", setting=setting, exit_index=e)),
                )
                progress(f"comparing loss and gradients at exit {e}")
                check_same_answers(sides)
                progress(f"timing exit {e}")
                measured, load = take_turns({**sides, "matmul": _matmul(setting, e, threads, shapes)}, repetitions)
                macs = {knob: batch_size * manifest.costs[f"train/{e}/{knob}"].macs for knob in KNOBS}
                of_exit = [*_records(measured), *_fractions(measured, macs, shapes), load_record(e, load)]
                rows[str(e)] = _row(of_exit)
                records += of_exit
    print_table(f"{model}, one step, batch {batch_size}", HEADINGS, rows, to_stderr=json_path == "-")
    if json_path:
        settings: dict[str, object] = {
            "exits": list(wanted),
            "threads": threads,
            "repetitions": repetitions,
            "optimizer": f"SGD, momentum {MOMENTUM}, learning rate {LEARNING_RATE}",
            "optimizer_runs_in": {"edgefl": "numpy", "one-graph": "numpy, outside the graph", "torch": "torch.optim"},
        }
        write_report(json_path, "benchmarks/train_step.py", setting, settings, records)


def _sides(setting: Setting, exit_index: int, threads: int, bundle: Path, graph: Path) -> dict[str, Side]:
    torch = Task(kind="torch", mode="train", setting=setting, exit_index=exit_index, threads=threads)
    tasks = {knob: replace(torch, kind="edgefl", path=str(bundle), memory=knob) for knob in KNOBS}
    adapter = str(bundle / "adapter.safetensors")
    tasks |= {"torch": torch, "one-graph": replace(torch, kind="one-graph", path=str(graph), adapter=adapter)}
    return {
        name: Side(labels={"side": task.kind, "exit": exit_index, "memory": task.memory or "none"}, task=task)
        for name, task in tasks.items()
    }


def _matmul(setting: Setting, exit_index: int, threads: int, shapes: list[Shape]) -> Side:
    task = Task(kind="matmul", mode="train", setting=setting, exit_index=exit_index, threads=threads, shapes=shapes)
    return Side(labels={"exit": exit_index}, task=task, untimed=2, timed=5)


def _records(measured: Mapping[str, Measured]) -> list[Record]:
    records = [record for name in (*KNOBS, *PEERS) for record in side_records("step_ms", measured[name])]
    for knob in KNOBS:
        for peer in PEERS:
            records += ratio_records("step_ms_ratio", measured[knob], measured[peer], peer)
    return records


def _fractions(measured: Mapping[str, Measured], macs: Mapping[str, int], shapes: list[Shape]) -> list[Record]:
    """Return how close each knob's step comes to the best product of the same run.

    Args:
        measured: All sides.
        macs: Counted multiply-accumulates of the whole batch's step, by knob.
        shapes: The products.
    """
    matmul = measured["matmul"]
    peak = peak_macs_per_second(shapes, matmul.seconds)
    records = [
        time_record("matmul_ms", seconds, {**matmul.labels, "product": product})
        for product, seconds in matmul.seconds.items()
    ]
    for knob in KNOBS:
        seconds = sorted(measured[knob].seconds["step"])
        fractions = [macs[knob] / each / peak for each in (statistics.median(seconds), seconds[-1], seconds[0])]
        labels = {"exit": matmul.labels["exit"], "memory": knob}
        records.append(
            Record(
                name="matmul_fraction",
                unit="1",
                value=fractions[0],
                min=fractions[1],
                max=fractions[2],
                repetitions=len(seconds),
                labels=labels,
                method="counted products of the step / the best single product",
            )
        )
    return records


def _row(records: Sequence[Record]) -> list[float]:
    find = partial(value_of, records)
    row = [find("step_ms", side="edgefl", memory=knob) for knob in KNOBS]
    row += [find("step_ms", side=peer) for peer in PEERS]
    row += [find("step_ms_ratio", memory="fast", against=peer) for peer in PEERS]
    row += [find("matmul_fraction", memory="fast")]
    row += [find("peak_rss", side="edgefl", memory=knob) / 1e6 for knob in ("fast", "lean")]
    return [*row, *(find("peak_rss", side=peer) / 1e6 for peer in PEERS), find("load_elsewhere")]


if __name__ == "__main__":
    run_script(train_step)
