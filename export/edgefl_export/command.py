"""`edgefl export`: a frozen transformer in, a bundle out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgefl.core.exits import format_exits, parse_exits
from edgefl.core.interrupts import interrupted_by_sigterm
from edgefl.core.report import Record, Report, json_option, this_device
from edgefl.measure.memory import peak_rss, peak_rss_of_children
from edgefl_export.embedded import EMBEDDED_MODEL

if TYPE_CHECKING:  # torch is imported when an export really starts
    from edgefl_export.exporter import ExportResult

__all__ = ["export"]

_PEAK_METHOD = "VmHWM of the process, and the most its assistant had, added"


@click.command()
@click.option("--model", default=EMBEDDED_MODEL, show_default=True, help="timm's model name, or the embedded one.")
@click.option("--exits", help="Exits to export, such as 0-11 or 2,5,8,11.  [default: all]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write.  [default: named after the model]")
@click.option("--pretrained/--no-pretrained", default=True, help="Fetch timm's weights, or draw random ones.")
@click.option("--weights", type=click.Path(path_type=Path), help="One's own safetensors file with timm's names.")
@click.option("--img-size", type=int, help="Height and width of a sample in pixels.  [default: the model's]")
@click.option("--classes", type=click.IntRange(2), default=10, show_default=True, help="Number of classes.")
@click.option(
    "--batch-size", type=click.IntRange(1), default=10, show_default=True, help="Samples `fast` training takes at once."
)
@click.option("--parallel-adapters", type=click.IntRange(0), default=0, help="Rank; the paper has 64.  [default: none]")
@click.option(
    "--replace/--no-replace",
    default=True,
    help="Give each block the Accumulator's CLS token, or leave its own: blocks then need no backward pass.",
)
@click.option("--mlp-dim", type=click.IntRange(1), help="Hidden size of Accumulator and head.  [default: 2048 at 384]")
@click.option(
    "--accumulator-heads", type=click.IntRange(1), default=12, show_default=True, help="Must divide the width."
)
@click.option(
    "--init", type=click.Choice(["small", "released"]), default="small", show_default=True, help="std 0.02 or 1."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all random numbers.")
@click.option("--force", is_flag=True, help="Replace an existing bundle and its adapter.")
@json_option
def export(json_path: str | None, **settings: Any) -> None:
    """Export a frozen transformer with an Accumulator beside it as a bundle.

    A bundle holds the weights once, a stand-alone ONNX graph for each exit, and the programs a device runs to answer
    and to train without torch.
    """
    from edgefl_export.exporter import export_bundle  # imports torch
    from edgefl_export.progress import shown_progress
    from edgefl_export.settings import make_network

    exits = parse_exits(settings["exits"]) if settings["exits"] is not None else None
    network, exits = make_network(settings, exits)
    with interrupted_by_sigterm(), shown_progress() as progress:
        result = export_bundle(
            network,
            exits,
            settings["out"] or Path(settings["model"]),
            batch=settings["batch_size"],
            seed=settings["seed"],
            force=settings["force"],
            progress=progress,
        )
    _print(result, to_stderr=json_path == "-")
    if json_path:
        shown = {name: value.name if isinstance(value, Path) else value for name, value in settings.items()}
        _report(result, shown).write(json_path)


def _print(result: ExportResult, *, to_stderr: bool) -> None:
    exits = tuple(parity.exit_index for parity in result.parity)
    worst_logits = max(parity.logits for parity in result.parity)
    worst_gradient = max(parity.gradient for parity in result.parity)
    click.echo(
        f"{result.folder}: exits {format_exits(exits)}, {result.bundle_bytes / 1e6:.1f} MB "
        f"({result.bundle_bytes / result.weight_bytes:.2f} x the weights), {result.seconds:.0f} s\n"
        f"parity with torch in float64, relative, worst exit: "
        f"logits {worst_logits:.1e}, gradients {worst_gradient:.1e}",
        err=to_stderr,
    )


def _report(result: ExportResult, settings: Mapping[str, object]) -> Report:
    records = [
        record
        for parity in result.parity
        for record in (
            Record(name="parity_logits", unit="1", value=parity.logits, labels={"exit": parity.exit_index}),
            Record(name="parity_gradient", unit="1", value=parity.gradient, labels={"exit": parity.exit_index}),
        )
    ]
    records += [
        Record(name="weight_bytes", unit="byte", value=result.weight_bytes),
        Record(name="bundle_bytes", unit="byte", value=result.bundle_bytes),
        Record(name="export_seconds", unit="s", value=result.seconds),
        Record(name="peak_rss", unit="byte", value=peak_rss() + peak_rss_of_children(), method=_PEAK_METHOD),
    ]
    return Report(command="export", settings=settings, records=records, device=this_device())
