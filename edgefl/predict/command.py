"""`edgefl predict`: answers to image files, each as deep as battery, heat, deadline and confidence let it go."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgefl.core.finite import FiniteRange
from edgefl.core.report import json_option
from edgefl.errors import BadInputError, SamplesError

if TYPE_CHECKING:
    from edgefl.core.report import Record
    from edgefl.policy import ExitCost, Request
    from edgefl.predict.predictor import ExitAnswer, Predictor
    from edgefl.runtime.model import Model

__all__ = ["predict"]


class _ExitOption(click.ParamType[int | str]):
    """`auto`, or the number of an exit."""

    name = "auto|K"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return `auto` or the number; anything else is a usage error."""
        text = str(value)
        if text == "auto":
            return text
        if not (text.isascii() and text.isdigit() and len(text) <= 4):
            self.fail(f"{text[:60]!r} is neither auto nor the number of an exit", param, ctx)
        return int(text)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--exit", "exit_index", type=_ExitOption(), default="auto", show_default=True, help="Where to answer.")
@click.option("--deadline-ms", type=FiniteRange(0), help="Time for each file, decoding included.")
@click.option("--energy-mj", type=FiniteRange(0), help="Energy for each file, where a meter tells.")
@click.option("--min-confidence", type=FiniteRange(0, 1), help="Stop at the first exit as sure as that.")
@click.option("--min-exit", type=click.IntRange(0), help="Never answer at a shallower exit.")
@click.option("--max-exit", type=click.IntRange(0), help="Never go deeper.")
@click.option("--adapter", type=click.Path(path_type=Path), help="[default: the personal one, else the bundle's]")
@click.option("--memory", type=click.Choice(["lean", "balanced", "fast"]), default="balanced", show_default=True)
@click.option("--trace", type=click.Path(path_type=Path), help="Recorded signals to play instead of the device's.")
@click.option("--explain", is_flag=True, help="Show every exit on the way, and all that limits the depth.")
@json_option
def predict(folder: Path, files: tuple[Path, ...], explain: bool, json_path: str | None, **options: Any) -> None:
    """Answer image FILEs with the bundle in DIR, exit by exit, and say why each answer stopped where it did.

    With `--exit auto` battery, heat and throttling limit the depth; confidences as `edgefl calibrate` has stored them,
    or --min-confidence, end it earlier.  `--exit K` reads no signals and answers at exit K, unless --deadline-ms,
    --energy-mj or --min-confidence end it earlier.
    """
    from edgefl.bundle import Bundle
    from edgefl.bundle.personal import current_adapter
    from edgefl.core.report import Report, this_device
    from edgefl.predict import answers as shown
    from edgefl.predict.calibration import read_calibration
    from edgefl.predict.options import opened_signals, request_of, rules_of
    from edgefl.predict.predictor import Predictor
    from edgefl.runtime.model import Model

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    to_stderr = json_path == "-"
    bundle = Bundle(folder)
    adapter = current_adapter(bundle, options["adapter"])
    calibration = read_calibration(bundle, adapter)
    model, request = Model(bundle, adapter, memory=options["memory"]), request_of(options, calibration)
    rules, costs = rules_of(options, model), _costs(model, request)
    temperatures = dict.fromkeys(model.exits, 1.0) if calibration is None else calibration.temperatures
    records: list[Record] = []
    with opened_signals(options["exit_index"], options["trace"]) as source:
        predictor = Predictor(model, source, rules, costs, temperatures)
        for file, answers in _answered(predictor, files, request):
            records += shown.records_of(file, answers)
            click.echo(shown.summary(file, answers[-1]), err=to_stderr)
            if explain:
                shown.explain(file, answers, predictor.decision, to_stderr=to_stderr)
    if json_path:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
        settings |= {"bundle": bundle.manifest.bundle_id, "costs_ms": [cost.milliseconds for cost in predictor.costs]}
        Report(command="predict", settings=settings, records=records, device=this_device()).write(json_path)
    answered = sum(record.name == "chosen_exit" for record in records)
    if failed := len(files) - answered:
        raise BadInputError(f"{failed} of {len(files)} files could not be answered, see above; replace or remove them")


def _costs(model: Model, request: Request) -> Sequence[ExitCost]:
    """Return what each exit costs here, measured where it matters."""
    from edgefl.policy import ExitCost
    from edgefl.predict.costs import measure_costs, warm_up

    if request.deadline_ms is not None or request.energy_mj is not None:
        costs = measure_costs(model)
        if request.energy_mj is not None and costs[0].millijoules is None:
            click.echo("no meter tells energy here, so --energy-mj limits nothing", err=True)
        return costs
    warm_up(model)
    return [ExitCost(exit_index=exit_index) for exit_index in model.exits]


def _answered(predictor: Predictor, files: Sequence[Path], request: Request) -> Iterator[tuple[Path, list[ExitAnswer]]]:
    """Answer one file after the other; say of each that cannot be read why, and go on."""
    from edgefl.samples.folder import read_image

    for file in files:
        started = time.perf_counter()
        try:
            yield file, list(predictor.answer(read_image(file), request, started))
        except SamplesError as error:
            click.echo(f"edgefl: {error}", err=True)
