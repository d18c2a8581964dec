"""`edgefl calibrate`: how sure each exit must be to answer, from held-out samples."""

from __future__ import annotations

from pathlib import Path

import click

from edgefl.core.finite import FiniteRange
from edgefl.core.report import json_option

__all__ = ["calibrate"]


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--samples", "source", required=True, metavar="FOLDER|MODULE:FUNCTION", help="Held-out, with labels.")
@click.option(
    "--adapter", "adapter_path", type=click.Path(path_type=Path), help="[default: the personal one, else the bundle's]"
)
@click.option(
    "--max-loss",
    type=FiniteRange(0, 1),
    default=0.005,
    show_default=True,
    help="Accuracy that may be given up against the deepest exit.",
)
@json_option
def calibrate(folder: Path, source: str, adapter_path: Path | None, max_loss: float, json_path: str | None) -> None:
    """Find a temperature and a threshold for each exit of the bundle in DIR.

    The samples must be held out: no training may have seen them.  The thresholds are those of the least mean time on
    this device that keeps the accuracy of the deepest exit, less --max-loss.  They are written to DIR/calibration.json,
    and to DIR/calibration.png as a picture where edgefl[plot] is installed; both are for one adapter.
    """
    import numpy as np  # `edgefl --help` stays light
    from rich.console import Console
    from rich.progress import track

    from edgefl.bundle import Bundle
    from edgefl.bundle.personal import current_adapter
    from edgefl.calibrate.answers import answer, batches, check_enough
    from edgefl.calibrate.outcome import calibrate_exits, records
    from edgefl.calibrate.picture import can_draw, draw, picture_path
    from edgefl.calibrate.table import print_outcome
    from edgefl.core.atomic import check_writable
    from edgefl.core.report import Report, this_device
    from edgefl.predict.calibration import calibration_path
    from edgefl.predict.costs import measure_costs
    from edgefl.runtime.model import Model
    from edgefl.samples import open_samples

    bundle = Bundle(folder)
    check_writable(calibration_path(bundle.folder))
    check_writable(picture_path(bundle.folder))
    adapter = current_adapter(bundle, adapter_path)
    samples = open_samples(source, bundle.manifest.model.classes)
    check_enough(samples)
    model = Model(bundle, adapter)
    costs = measure_costs(model, repetitions=20)
    console = Console(stderr=True)
    answered = track(answer(model, samples), "answering", batches(samples), console=console, transient=True)
    outcome = calibrate_exits(adapter, np.concatenate(list(answered), axis=1), samples.labels, costs, max_loss)
    print_outcome(outcome, to_stderr=json_path == "-")
    if can_draw():
        # Before the calibration is in use: where the disk is full, nothing has changed that a command does not tell.
        draw(outcome, picture_path(bundle.folder))
    else:
        click.echo("for a picture of it: pip install 'edgefl[plot]'", err=True)
    outcome.calibration.write(bundle.folder)
    if json_path:
        settings: dict[str, object] = {"samples": source, "num_samples": len(samples.labels), "max_loss": max_loss}
        settings |= {"bundle": bundle.manifest.bundle_id, "adapter_sha256": outcome.calibration.adapter_sha256}
        settings |= {"model": bundle.manifest.model.name}
        Report(command="calibrate", settings=settings, records=records(outcome), device=this_device()).write(json_path)
