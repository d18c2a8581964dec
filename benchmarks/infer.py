"""Time one inference of edgefl beside torch and beside a plain ONNX export of the same model to the same exit.

edgefl answers in three ways: with the program `infer/E`, with the bundle's stand-alone graph of the exit, and with the
program `anytime`, which answers at every exit on its way to the deepest one and is compared there.  Programs run with
mapped weights (`--memory balanced`) and with packed ones (`fast`).
"""

from __future__ import annotations

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
    value_of,
)
from benchmarks.one_graph import Recipe, cached_graph
from benchmarks.options import model_options, peer_options, write_report
from benchmarks.setting import Setting
from benchmarks.sides import Task
from edgefl.bundle import Bundle
from edgefl.core.exits import parse_exits
from edgefl.core.report import Label, Record

WAYS = ("infer", "infer fast", "stand-alone", "anytime", "anytime fast")
KNOBS = ("balanced", "fast")
PEERS = ("torch", "one-graph")
HEADINGS = (
    *("exit", "infer\nms", "fast\nms", "stand-alone\nms", "anytime\nms", "fast\nms", "torch\nms", "one-graph\nms"),
    *("fast /\ntorch", "fast /\none-graph", "anytime fast /\nstand-alone"),
    *("infer\nMB", "fast\nMB", "torch\nMB", "one-graph\nMB", "load\nelsewhere"),
)


@click.command()
@model_options(exits="0,1,2,5,8,11", image_size=224, batch=1, repetitions=50)
@peer_options()
def infer(
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
    """Compare one inference of edgefl with torch's and with a plain ONNX export's."""
    wanted = parse_exits(exits)
    setting = Setting(model=model, image_size=img_size, classes=classes, batch=batch_size)
    records: list[Record] = []
    rows: dict[str, list[float]] = {}
    with Progress() as progress:
        progress(f"exporting {model}")
        # All exits: `anytime` stops at each.
        with exported_bundle(setting, tuple(range(wanted[-1] + 1))) as folder:
            bundle = Bundle(folder)
            for e in wanted:
                progress(f"exporting exit {e} plainly, unless {cache} has it")
                graph = cached_graph(cache, Recipe(mode="infer", setting=setting, exit_index=e))
                sides = inference_sides(setting, e, threads, bundle, graph)
                progress(f"comparing logits at exit {e}")
                check_same_answers(sides)
                progress(f"timing exit {e}")
                measured, load = take_turns(sides, repetitions)
                of_exit = [*_records(measured), load_record(e, load)]
                rows[str(e)] = _row(of_exit)
                records += of_exit
    print_table(f"{model}, one inference, batch {batch_size}", HEADINGS, rows, to_stderr=json_path == "-")
    if json_path:
        settings: dict[str, object] = {"exits": list(wanted), "threads": threads, "repetitions": repetitions}
        write_report(json_path, "benchmarks/infer.py", setting, settings, records)


def inference_sides(setting: Setting, exit_index: int, threads: int, bundle: Bundle, graph: Path) -> dict[str, Side]:
    """Return the sides that are compared at an exit, by name.

    Args:
        setting: Model and batch.
        exit_index: The exit.
        threads: Of each side.
        bundle: The model's bundle.
        graph: The plain export of the exit.
    """
    torch = Task(kind="torch", mode="infer", setting=setting, exit_index=exit_index, threads=threads)
    edgefl = replace(torch, kind="edgefl", path=str(bundle.folder), memory="balanced")
    stand_alone = str(bundle.path(bundle.manifest.stand_alone[str(exit_index)]))
    tasks = {
        "infer": edgefl,
        "infer fast": replace(edgefl, memory="fast"),
        "stand-alone": replace(torch, kind="stand-alone", path=stand_alone),
        "torch": torch,
        "one-graph": replace(torch, kind="one-graph", path=str(graph)),
    }
    if exit_index == bundle.manifest.exits[-1]:
        tasks["anytime"] = replace(edgefl, program="anytime")
        tasks["anytime fast"] = replace(edgefl, program="anytime", memory="fast")
    return {name: Side(labels=_labels(name, task), task=task) for name, task in tasks.items()}


def _labels(name: str, task: Task) -> dict[str, Label]:
    labels: dict[str, Label] = {"exit": task.exit_index, "memory": task.memory or "none"}
    return labels | ({"side": name} if name in PEERS else {"side": "edgefl", "program": name.removesuffix(" fast")})


def _records(measured: Mapping[str, Measured]) -> list[Record]:
    ways = [name for name in WAYS if name in measured]
    records = [record for name in (*ways, *PEERS) for record in side_records("infer_ms", measured[name])]
    for way in ways:
        for other in (*PEERS, *(["stand-alone"] if way != "stand-alone" else [])):
            records += ratio_records("infer_ms_ratio", measured[way], measured[other], other)
    return records


def _row(records: Sequence[Record]) -> list[float]:
    find = partial(value_of, records)
    row = [find("infer_ms", program="infer", memory=knob) for knob in KNOBS]
    row += [find("infer_ms", program="stand-alone")]
    row += [find("infer_ms", program="anytime", memory=knob) for knob in KNOBS]
    row += [find("infer_ms", side=peer) for peer in PEERS]
    row += [find("infer_ms_ratio", program="infer", memory="fast", against=peer) for peer in PEERS]
    row += [find("infer_ms_ratio", program="anytime", memory="fast", against="stand-alone")]
    row += [find("peak_rss", program="infer", memory=knob) / 1e6 for knob in KNOBS]
    return [*row, *(find("peak_rss", side=peer) / 1e6 for peer in PEERS), find("load_elsewhere")]


if __name__ == "__main__":
    run_script(infer)
