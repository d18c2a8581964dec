"""`edgefl selftest`: does this device compute what the exporter computed?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgefl.core.report import json_option

if TYPE_CHECKING:
    from edgefl.core.report import Record
    from edgefl.selftest.replay import Replay

__all__ = ["selftest"]

_QUANTITIES = {"logits": "logits", "loss": "loss", "gradient_norm": "gradient norms"}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def selftest(folder: Path, json_path: str | None) -> None:
    """Replay the golden values of the bundle in FOLDER and compare: logits, loss and gradient norms.

    Ends with 4 where a relative deviation is above the bundle's tolerance.
    """
    from edgefl.core.report import Report, this_device  # `edgefl --help` stays light
    from edgefl.runtime.model import load
    from edgefl.selftest.replay import all_programs, replay

    model = load(folder)
    programs = all_programs(model.bundle)
    found = replay(model, programs)
    _print(found, to_stderr=json_path == "-")
    if json_path:
        manifest = model.bundle.manifest
        settings: dict[str, object] = {"programs": programs, "tolerance": found.tolerance}
        settings |= {"bundle": manifest.bundle_id, "model": manifest.model.name}
        Report(command="selftest", settings=settings, records=_records(found), device=this_device()).write(json_path)
    found.check()
    click.echo(
        f"this device computes what the exporter computed ({found.programs} programs, {found.seconds:.2f} s)",
        err=json_path == "-",
    )


def _print(found: Replay, *, to_stderr: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"relative deviation, at most {found.tolerance:.0e}")
    for heading in ("exit", *_QUANTITIES.values()):
        table.add_column(heading, justify="right")
    values = {(d.exit_index, d.quantity): d.value for d in found.deviations}
    for exit_index in dict.fromkeys(e for e, _ in values):
        row = [values[exit_index, quantity] for quantity in ("logits", "loss", "gradient_norm")]
        table.add_row(str(exit_index), *(f"{value:.1e}" + " !" * (value > found.tolerance) for value in row))
    Console(stderr=to_stderr).print(table)


def _records(found: Replay) -> list[Record]:
    from edgefl.core.report import Record

    deviations = [
        Record(
            name="selftest_deviation",
            unit="1",
            value=deviation.value,
            labels={"exit": deviation.exit_index, "quantity": deviation.quantity},
        )
        for deviation in found.deviations
    ]
    return [*deviations, Record(name="selftest_seconds", unit="s", value=found.seconds)]
