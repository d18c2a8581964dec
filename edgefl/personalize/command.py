"""`edgefl personalize`: fine-tune the adapter on this device's own samples."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgefl.core.finite import FiniteRange
from edgefl.core.interrupts import interrupted_by_sigterm
from edgefl.core.report import json_option
from edgefl.core.sizes import ByteSizes
from edgefl.personalize.options import LEARNING_RATES, plan_of

if TYPE_CHECKING:
    from edgefl.bundle import Adapter, Bundle
    from edgefl.core.report import Record, Report
    from edgefl.personalize.caches import Caches
    from edgefl.personalize.outcome import Outcome
    from edgefl.personalize.score import Score
    from edgefl.personalize.split import Parts
    from edgefl.runtime.local_training import LocalPlan
    from edgefl.runtime.model import Model

__all__ = ["personalize"]


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--samples", "source", metavar="FOLDER|MODULE:FUNCTION", help="This device's samples, with labels.")
@click.option(
    "--what",
    type=click.Choice(list(LEARNING_RATES)),
    default="accumulator",
    show_default=True,
    help="What to train: Accumulator and head, or less.",
)
@click.option("--exit", "exit_index", type=click.IntRange(0), help="The tier's exit.  [default: the bundle's deepest]")
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True, help="At most so many.")
@click.option(
    "--patience", type=click.IntRange(1), default=3, show_default=True, help="Epochs to wait for a better one."
)
@click.option("--batch-size", type=click.IntRange(1), default=10, show_default=True, help="Samples of one step.")
@click.option(
    "--learning-rate",
    type=FiniteRange(0, min_open=True),
    help="Of SGD.  [default: " + ", ".join(f"{rate} for {what}" for what, rate in LEARNING_RATES.items()) + "]",
)
@click.option(
    "--momentum", type=FiniteRange(0, 1, max_open=True), default=0.9, show_default=True, help="Of SGD, for all epochs."
)
@click.option(
    "--validation-share",
    type=FiniteRange(0, 0.5, min_open=True),
    default=0.2,
    show_default=True,
    help="Of the samples, those that no step is trained on.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of split and order.")
@click.option(
    "--memory",
    type=click.Choice(["lean", "balanced", "fast"]),
    default="balanced",
    show_default=True,
    help="What training may take for its speed.",
)
@click.option(
    "--feature-cache",
    type=ByteSizes(),
    default="256MB",
    show_default=True,
    help="Disk for what no epoch changes of a sample; 0B for none.",
)
@click.option("--undo", is_flag=True, help="Remove the personal adapter; nothing else is done.")
@json_option
def personalize(folder: Path, undo: bool, json_path: str | None, **options: Any) -> None:
    """Fine-tune the adapter of the bundle in DIR at one exit, and keep the result where it is better.

    Some of the samples are held out; they tell when to stop, and whether the personal adapter is better than the global
    one.  It lies in DIR/personal, where `edgefl predict` and `edgefl calibrate` find it; the global one stays what it
    is.  An interrupt or a power cut at any moment leaves the best so far.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with interrupted_by_sigterm():
        if undo:
            _undo(folder, json_path)
        elif options["source"] is None:
            raise click.UsageError("Missing option '--samples'.")
        else:
            _personalize(folder, json_path, options)


def _personalize(folder: Path, json_path: str | None, options: dict[str, Any]) -> None:
    from edgefl.bundle import Bundle
    from edgefl.personalize.caches import opened_caches
    from edgefl.personalize.kept import held_folder, is_replaced
    from edgefl.personalize.outcome import records
    from edgefl.personalize.split import split
    from edgefl.personalize.table import print_outcome
    from edgefl.runtime.model import Model
    from edgefl.samples import open_samples

    bundle = Bundle(folder)
    own = bundle.adapter()
    plan = plan_of(bundle, options)
    samples = open_samples(options["source"], bundle.manifest.model.classes)
    parts = split(samples, options["validation_share"], options["seed"])
    model = Model(bundle, own, memory=options["memory"])
    with held_folder(bundle) as held, opened_caches(held, options["feature_cache"][0], parts) as caches:
        outcome = _tuned(model, own, parts, plan, options["patience"], caches)
    print_outcome(outcome, plan.exit_index, to_stderr=json_path == "-")
    if outcome.kept == "personal" and is_replaced(bundle, own):
        click.echo(
            "the global adapter was replaced meanwhile, so the personal one is not used; personalize again", err=True
        )
    if json_path:
        names = ("what", "epochs", "patience", "batch_size", "momentum", "validation_share", "seed", "memory")
        settings = {name: options[name] for name in names}
        settings |= {"samples": options["source"], "exit": plan.exit_index, "learning_rate": plan.learning_rate}
        settings |= {"feature_cache": options["feature_cache"][0]}
        of_process = _of_process(caches.used_bytes if caches else 0)
        _report(bundle, settings, [*records(outcome), *of_process]).write(json_path)


def _tuned(model: Model, own: Adapter, parts: Parts, plan: LocalPlan, patience: int, caches: Caches | None) -> Outcome:
    """Fine-tune, and show how it goes."""
    from rich.console import Console
    from rich.progress import Progress

    from edgefl.personalize.tuning import tune

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("looking at the global adapter", total=plan.epochs)

        def show(epoch: int, score: Score, best: Score) -> None:
            said = f"{100 * score.accuracy:.1f} % right, loss {score.loss:.4f}; best {100 * best.accuracy:.1f} %"
            bar.update(task, completed=epoch, description=said)

        try:
            return tune(model, own, parts, plan, patience=patience, caches=caches, on_epoch=show)
        except KeyboardInterrupt:
            click.echo("interrupted: what was best so far is kept", err=True)
            raise


def _undo(folder: Path, json_path: str | None) -> None:
    from edgefl.bundle import Bundle
    from edgefl.bundle.personal import personal_folder
    from edgefl.core.report import Record
    from edgefl.personalize.kept import held_folder, remove

    bundle = Bundle(folder, verify=False)
    removed = False
    if personal_folder(bundle.folder).is_dir():
        with held_folder(bundle):
            removed = remove(bundle)
    where = personal_folder(bundle.folder)
    said = f"removed the personal adapter in {where}" if removed else f"there is no personal adapter in {where}"
    click.echo(f"{said}; the global adapter answers", err=json_path == "-")
    if json_path:
        kept = Record(name="kept", unit="1", value=1, labels={"adapter": "global"})
        _report(bundle, {"undo": True, "removed": removed}, [kept]).write(json_path)


def _of_process(cache_bytes: int) -> list[Record]:
    from edgefl.core.report import Record
    from edgefl.measure.memory import peak_rss

    return [
        Record(name="peak_rss", unit="byte", value=peak_rss(), method="VmHWM"),
        Record(name="feature_cache", unit="byte", value=cache_bytes),
    ]


def _report(bundle: Bundle, settings: Mapping[str, object], records: list[Record]) -> Report:
    from edgefl.core.report import Report, this_device

    facts = {"bundle": bundle.manifest.bundle_id, "model": bundle.manifest.model.name}
    return Report(command="personalize", settings={**settings, **facts}, records=records, device=this_device())
