"""`edgefl demo`: six clients of five tiers learn handwritten digits together, on this machine."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgefl.core.report import json_option

if TYPE_CHECKING:
    from edgefl_server.demo.digits import Digits
    from edgefl_server.demo.processes import Federation
    from edgefl_server.demo.results import Results

__all__ = ["demo"]

_TIERS = (0, 2, 5, 8, 11, 11)
_PARALLEL_ADAPTER_RANK = 16
_LEARNING_RATE = 1e-3
_DEVICE_PYTHON = Path(sys.prefix).parent / ".venv-device" / "bin" / "python"


@click.command()
@click.option("--alpha", type=click.FloatRange(0, min_open=True), default=0.1, show_default=True, help="Of the split.")
@click.option("--rounds", type=click.IntRange(1), default=16, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all random numbers.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-output"), show_default=True)
@click.option(
    "--device-python",
    type=click.Path(path_type=Path),
    default=_DEVICE_PYTHON,
    help="Interpreter the clients run in.  [default: .venv-device beside this environment]",
)
@json_option
def demo(alpha: float, rounds: int, seed: int, out: Path, device_python: Path, json_path: str | None) -> None:
    """Run the main job: export, federate over a real Flower SuperLink, compare.

    scikit-learn's handwritten digits are split among six client processes (Dirichlet, class by class) that train up
    to the exits 0, 2, 5, 8, 11 and 11; the backbone has never seen a digit.
    """
    from edgefl.core.report import Report, this_device
    from edgefl_server.demo.folder import fresh_folder
    from edgefl_server.demo.results import draw, print_tables, to_records

    started = time.monotonic()
    folder = fresh_folder(out)
    results = _run(folder, alpha=alpha, rounds=rounds, seed=seed, device_python=device_python, started=started)
    print_tables(results, to_stderr=json_path == "-")
    draw(results, folder / "accuracy.png")
    click.echo(f"picture: {folder / 'accuracy.png'}; aggregated adapter: {results.federation.adapter}", err=True)
    if json_path:
        settings = {"alpha": alpha, "rounds": rounds, "seed": seed, "tiers": list(_TIERS)}
        clients = [report["settings"] for report in results.federation.clients]
        settings["clients"] = [{key: each[key] for key in ("pid", "exit", "modules")} for each in clients]
        settings["superlink"] = results.federation.server["settings"]["superlink"]
        Report(command="demo", settings=settings, records=to_records(results), device=this_device()).write(json_path)


def _run(folder: Path, *, alpha: float, rounds: int, seed: int, device_python: Path, started: float) -> Results:
    """Export, federate, compare."""
    from edgefl_server.demo.digits import CLASSES, load_digits_split, partition, write_folder
    from edgefl_server.demo.processes import Client, export_bundle, run_federation

    train, test = load_digits_split(seed)
    parts = [train.subset(part) for part in partition(train.labels, len(_TIERS), alpha, seed)]
    write_folder(test, folder / "held-out")
    clients = []
    for number, (part, exit_index) in enumerate(zip(parts, _TIERS, strict=True)):
        samples = folder / f"samples-{number}"
        write_folder(part, samples)
        clients.append(Client(samples=samples, deepest_exit=exit_index, folder=folder / f"client-{number}"))
    bundle = folder / "bundle"
    export_bundle(bundle, seed, _PARALLEL_ADAPTER_RANK, CLASSES)
    federation = run_federation(bundle, clients, folder / "server", rounds, seed, device_python)
    return _compare(bundle, federation, parts, train, test, rounds=rounds, seed=seed, started=started)


def _compare(
    bundle: Path,
    federation: Federation,
    parts: list[Digits],
    train: Digits,
    test: Digits,
    *,
    rounds: int,
    seed: int,
    started: float,
) -> Results:
    """Train without a federation and measure everything on the test digits."""
    from rich.console import Console
    from rich.progress import Progress

    from edgefl.runtime.model import load
    from edgefl_server.demo.baselines import (
        Place,
        Schedule,
        accuracy_per_exit,
        logistic_regression_accuracy,
        mean_per_exit,
        train_everywhere,
    )
    from edgefl_server.demo.results import Results

    # The largest first, so that no core waits for it at the end.
    places = [Place(digits=train, deepest_exit=max(_TIERS))]
    places += [Place(digits=part, deepest_exit=e) for part, e in zip(parts, _TIERS, strict=True)]
    schedule = Schedule(epochs=rounds, learning_rate=_LEARNING_RATE, seed=seed)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("for comparison: each alone, and centralised", total=len(places))
        centralised, *local = train_everywhere(bundle, places, test, schedule, lambda: bar.advance(task))
    model = load(bundle)
    exported = model.adapter
    accuracy = {
        "before": accuracy_per_exit(model, exported, test),
        "after": accuracy_per_exit(model, model.bundle.adapter(federation.adapter).tensors, test),
        "local_only": mean_per_exit(local),
        "centralised": centralised,
    }
    return Results(
        accuracy=accuracy,
        local_only_own=sum(each[e] for each, e in zip(local, _TIERS, strict=True)) / len(local),
        logistic_regression=logistic_regression_accuracy(train, test),
        federation=federation,
        seconds=time.monotonic() - started,
    )
