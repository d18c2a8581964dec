"""`edgefl measure`: memory peak, latency and counted work of every exit on this device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgefl.core.exits import parse_exits
from edgefl.core.report import json_option

if TYPE_CHECKING:
    from edgefl.core.report import Record
    from edgefl.measure.exits import Mode

__all__ = ["measure"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--exits", help="Exits to measure, such as 0-11 or 2,5.  [default: all the bundle has]")
@click.option("--mode", type=click.Choice(["infer", "train"]), help="[default: infer, with --paper train]")
@click.option("--batch-size", type=click.IntRange(1), help="Samples.  [default: 1 to infer, 10 to train]")
@click.option("--memory", type=click.Choice(["lean", "balanced", "fast"]), default="balanced", show_default=True)
@click.option("--repetitions", type=click.IntRange(1), default=20, show_default=True, help="Timed runs of each exit.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw memory and latency; needs edgefl[plot].")
@click.option("--paper", is_flag=True, help="Show the paper's Table 7 beside it: DeiT-S, 160 x 160, batch 10, train.")
@json_option
def measure(
    folder: Path,
    exits: str | None,
    mode: Mode | None,
    batch_size: int | None,
    memory: str,
    repetitions: int,
    plot: Path | None,
    paper: bool,
    json_path: str | None,
) -> None:
    """Measure the bundle in FOLDER, each exit in a process of its own.

    Training means one local step of SGD with momentum 0.9 on random samples.  Its speed in GFLOP/s, which `edgefl
    plan` can only assume, is 2 x macs x batch / latency.
    """
    from rich.progress import track  # `edgefl --help` stays light

    from edgefl.bundle import Bundle
    from edgefl.core.report import Report, this_device
    from edgefl.measure.exits import measure_exits
    from edgefl.measure.paper import check_setting, compare_memory, paper_records
    from edgefl.measure.paper_table import print_paper
    from edgefl.measure.picture import check_picture, draw, print_table, stderr_console

    if plot:
        check_picture(plot)
    asked = parse_exits(exits) if exits is not None else None
    bundle = Bundle(folder)
    wanted = asked if asked is not None else tuple(bundle.manifest.exits)
    mode = mode or ("train" if paper else "infer")
    batch = batch_size or (10 if mode == "train" else 1)
    if paper:
        check_setting(bundle.manifest, mode, batch)
    measured = measure_exits(bundle, wanted, mode, batch, memory, repetitions)
    console = stderr_console()
    records: list[Record] = []
    for of_exit in track(measured, "measuring", len(wanted), console=console, transient=True):
        records += of_exit
    print_table(records, to_stderr=json_path == "-")
    if paper:
        print_paper(records, bundle.manifest.costs, to_stderr=json_path == "-")
    if plot:
        draw(records, plot)
    if json_path:
        settings: dict[str, object] = {"exits": list(wanted), "mode": mode, "batch": batch, "repetitions": repetitions}
        settings |= {"memory": memory, "bundle": bundle.manifest.bundle_id, "model": bundle.manifest.model.name}
        compared = [*compare_memory(records), *paper_records()] if paper else []
        Report(command="measure", settings=settings, records=records + compared, device=this_device()).write(json_path)
