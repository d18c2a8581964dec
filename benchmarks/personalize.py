"""Compare runs of `edgefl personalize`: the client token against the whole Accumulator, cached features against none.

Every run is the command a user has, in a process of its own, on samples that are decoded already; the sides take turns.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from benchmarks.comparison import Progress, print_table, run_export, run_script, value_of
from benchmarks.options import model_options, write_report
from benchmarks.personal_samples import FOLDER, write
from benchmarks.setting import Setting
from edgefl.bundle import Bundle
from edgefl.bundle.personal import personal_folder
from edgefl.core.exits import parse_exits
from edgefl.core.report import Label, Record, Report

SIDES: Mapping[str, Mapping[str, Label]] = {
    "accumulator": {"what": "accumulator", "cached": True},
    "uncached": {"what": "accumulator", "cached": False},
    "client-token": {"what": "client-token", "cached": True},
}
HEADINGS = (
    *("exit", "Accumulator,\nms an epoch", "uncached,\nms", "client\ntoken, ms", "speed-up\nof the cache"),
    *("token /\nAccumulator", "Accumulator,\nMB", "client\ntoken, MB", "less,\nMB", "trained\ntoken, kB"),
)
_LEARNING_RATE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all runs have in common.

    Attributes:
        options: Of the command.
        environment: Of its process.
    """

    options: Sequence[str]
    environment: Mapping[str, str]

    def run(self, bundle: Path, exit_index: int, side: Mapping[str, Label]) -> Report:
        """Run the command from the global adapter on; where it refuses, end with its words and its exit code."""
        shutil.rmtree(personal_folder(bundle), ignore_errors=True)
        options = ["--exit", str(exit_index), "--what", str(side["what"])]
        options += [] if side["cached"] else ["--feature-cache", "0B"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "report.json")
            command = [sys.executable, "-m", "edgefl", "personalize", str(bundle), *self.options, *options]
            done = subprocess.run(
                [*command, "--json", str(path)], env=self.environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                click.echo(done.stderr.rstrip(), err=True)
                raise click.exceptions.Exit(done.returncode)
            return msgspec.json.decode(path.read_bytes(), type=Report)


@click.command()
@model_options(exits="0,1,11", image_size=160, batch=10, repetitions=5)
@click.option("--threads", type=click.IntRange(1, 1024), default=2, show_default=True, help="Of each side.")
@click.option("--memory", type=click.Choice(["lean", "balanced", "fast"]), default="balanced", show_default=True)
@click.option("--epochs", type=click.IntRange(2), default=5, show_default=True, help="Of each run.")
@click.option("--steps", type=click.IntRange(1), default=4, show_default=True, help="Of each epoch.")
def personalize(
    model: str,
    exits: str,
    img_size: int,
    batch_size: int,
    classes: int,
    repetitions: int,
    json_path: str | None,
    **own: Any,
) -> None:
    """Compare time and memory of fine-tuning an Accumulator with its features cached or not, and a client token."""
    wanted = parse_exits(exits)
    setting = Setting(model=model, image_size=img_size, classes=classes, batch=batch_size)
    records: list[Record] = []
    rows: dict[str, list[float]] = {}
    with Progress() as progress, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        progress(f"exporting {model} twice")
        run_export(setting, wanted, "--out", str(folder / "replace"))
        run_export(setting, wanted[-1:], "--no-replace", "--out", str(folder / "no-replace"))
        bench = _bench(setting, folder, own)
        for bundle, e in [*((folder / "replace", e) for e in wanted), (folder / "no-replace", wanted[-1])]:
            progress(f"fine-tuning at exit {e}, {bundle.name}")
            of_exit = _records(_take_turns(bench, bundle, e, repetitions), {"exit": e, "bundle": bundle.name})
            rows[f"{e}, {bundle.name}"] = _row(of_exit)
            records += of_exit
    print_table(f"{model}, {own['memory']}, batch {batch_size}", HEADINGS, rows, to_stderr=json_path == "-")
    if json_path:
        settings = {"exits": list(wanted), "repetitions": repetitions, "learning_rate": _LEARNING_RATE, **own}
        write_report(json_path, "benchmarks/personalize.py", setting, settings, records)


def _bench(setting: Setting, folder: Path, own: Mapping[str, Any]) -> Bench:
    """Write samples for so many whole steps, and as many as one step takes to validate with."""
    channels = Bundle(folder / "replace", verify=False).manifest.model.channels
    several = msgspec.structs.replace(setting, batch=setting.batch * (own["steps"] + 1))
    write(folder, several.samples(channels), several.labels())
    options = {
        "--samples": "benchmarks.personal_samples:decoded",
        "--validation-share": 1 / (own["steps"] + 1),
        "--batch-size": setting.batch,
        "--epochs": own["epochs"],
        "--patience": own["epochs"],
        "--learning-rate": _LEARNING_RATE,
        "--memory": own["memory"],
    }
    threads = str(own["threads"])
    return Bench(
        options=[str(part) for option in options.items() for part in option],
        environment={**os.environ, FOLDER: str(folder), "EDGEFL_THREADS": threads, "OMP_NUM_THREADS": threads},
    )


def _take_turns(bench: Bench, bundle: Path, exit_index: int, rounds: int) -> dict[str, list[Report]]:
    """Run each side in every round; the round's first side changes from round to round."""
    names = list(SIDES)
    reports: dict[str, list[Report]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            reports[name].append(bench.run(bundle, exit_index, SIDES[name]))
    return reports


def _records(reports: Mapping[str, Sequence[Report]], place: Mapping[str, Label]) -> list[Record]:
    found: list[Record] = []
    values: dict[str, dict[str, list[float]]] = {}
    for name, side in SIDES.items():
        labels = {**place, **side}
        values[name] = {key: [value_of(r.records, key) for r in reports[name]] for key in ("epoch_ms", "peak_rss")}
        found.append(_record("epoch_ms", "ms", values[name]["epoch_ms"], labels))
        found.append(_record("peak_rss", "byte", values[name]["peak_rss"], labels))
        trained = [record for record in reports[name][0].records if record.name == "trained_bytes"]
        found += [msgspec.structs.replace(record, labels={**labels, **record.labels}) for record in trained]
    for name, against in (("client-token", "accumulator"), ("accumulator", "uncached")):
        labels = {**place, **SIDES[name], "against": against}
        mine, others = values[name], values[against]
        times = list(zip(mine["epoch_ms"], others["epoch_ms"], strict=True))
        peaks = zip(mine["peak_rss"], others["peak_rss"], strict=True)
        found.append(_record("epoch_ms_ratio", "1", [one / other for one, other in times], labels))
        found.append(_record("epoch_speedup", "1", [other / one for one, other in times], labels))
        found.append(_record("peak_rss_less", "byte", [other - one for one, other in peaks], labels))
    return found


def _record(name: str, unit: str, values: Sequence[float], labels: Mapping[str, Label]) -> Record:
    """Return the rounds' values as one record."""
    return Record(
        name=name,
        unit=unit,
        value=statistics.median(values),
        min=min(values),
        max=max(values),
        repetitions=len(values),
        labels=dict(labels),
    )


def _row(records: Sequence[Record]) -> list[float]:
    find = partial(value_of, records)
    row = [find("epoch_ms", **side) for side in SIDES.values()]
    row += [find("epoch_speedup", against="uncached"), find("epoch_ms_ratio", against="accumulator")]
    row += [find("peak_rss", **SIDES[name]) / 1e6 for name in ("accumulator", "client-token")]
    row += [find("peak_rss_less", against="accumulator") / 1e6]
    return [
        *row,
        sum(r.value for r in records if r.name == "trained_bytes" and r.labels["what"] == "client-token") / 1e3,
    ]


if __name__ == "__main__":
    run_script(personalize)
