"""The demo's numbers: as records, as a table, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgefl.core.report import Label, Record
from edgefl_server.demo.processes import Federation

__all__ = ["Results", "draw", "print_tables", "to_records"]

_WHEN = ("before", "after", "local_only", "centralised")


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What the demo found out.

    Attributes:
        accuracy: Fraction of right answers by `before`, `after`, `local_only` (mean of the clients) and
            `centralised`, then by exit.
        local_only_own: Mean over the clients, each alone, at its deepest exit.
        logistic_regression: On raw pixels, all samples in one place.
        federation: Server's and clients' reports.
        seconds: Of the whole demo.
    """

    accuracy: Mapping[str, Mapping[int, float]]
    local_only_own: float
    logistic_regression: float
    federation: Federation
    seconds: float


def to_records(results: Results) -> list[Record]:
    """Return every number as a record (docs/reports.md)."""
    records = [
        Record(name="accuracy", unit="1", value=value, labels={"exit": exit_index, "when": when})
        for when in _WHEN
        for exit_index, value in results.accuracy[when].items()
    ]
    own: dict[str, Label] = {"exit": "own", "when": "local_only"}
    none: dict[str, Label] = {"exit": "none", "when": "logistic_regression"}
    records.append(Record(name="accuracy", unit="1", value=results.local_only_own, labels=own))
    records.append(Record(name="accuracy", unit="1", value=results.logistic_regression, labels=none))
    for number, report in enumerate(results.federation.clients):
        records += [
            Record(
                name=record["name"],
                unit=record["unit"],
                value=record["value"],
                labels={"client": number, **record["labels"]},
                method=record.get("method"),
            )
            for record in report["records"]
            if record["name"] in {"bytes_up", "bytes_down", "peak_rss"}
        ]
    records += [
        Record(name=record["name"], unit=record["unit"], value=record["value"], labels=record["labels"])
        for record in results.federation.server["records"]
        if record["name"] in {"round_seconds", "replies"}
    ]
    records.append(Record(name="demo_seconds", unit="s", value=results.seconds))
    return records


def print_tables(results: Results, *, to_stderr: bool) -> None:
    """Print accuracy per exit and what each client cost."""
    console = Console(stderr=to_stderr)
    table = Table(title="accuracy, % of the test digits")
    for heading in ("exit", "before", "after", "local only (mean)", "centralised"):
        table.add_column(heading, justify="right")
    rows = {str(e): [results.accuracy[when][e] for when in _WHEN] for e in results.accuracy["after"]}
    for exit_index, values in rows.items():
        table.add_row(exit_index, *(f"{100 * value:.1f}" for value in values))
    table.add_section()
    table.add_row("mean", *(f"{100 * sum(column) / len(column):.1f}" for column in zip(*rows.values(), strict=True)))
    console.print(table)
    console.print(
        f"each client alone at its own deepest exit: {100 * results.local_only_own:.1f} %; "
        f"logistic regression on raw pixels, all samples in one place: {100 * results.logistic_regression:.1f} %"
    )
    _print_clients(console, results.federation.clients)
    seconds = [record["value"] for record in results.federation.server["records"] if record["name"] == "round_seconds"]
    console.print(f"{len(seconds)} rounds in {sum(seconds):.0f} s, the whole demo in {results.seconds:.0f} s")


def _print_clients(console: Console, clients: list[dict[str, Any]]) -> None:
    table = Table(title="clients (each a process of the device environment)")
    for heading in ("client", "deepest exit", "sent, MB", "received, MB", "memory peak, MB"):
        table.add_column(heading, justify="right")
    for number, report in enumerate(clients):
        values = {record["name"]: record["value"] for record in report["records"]}
        columns = (values[name] / 1e6 for name in ("bytes_up", "bytes_down", "peak_rss"))
        table.add_row(str(number), str(report["settings"]["exit"]), *(f"{value:.1f}" for value in columns))
    console.print(table)


def draw(results: Results, path: Path) -> None:
    """Draw accuracy over exits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    labels = {
        "centralised": "centralised",
        "after": "federated",
        "local_only": "local only, mean of clients",
        "before": "before training",
    }
    for when, label in labels.items():
        accuracy = results.accuracy[when]
        axes.plot(list(accuracy), [100 * value for value in accuracy.values()], marker="o", markersize=3, label=label)
    axes.axhline(
        100 * results.logistic_regression, color="grey", linestyle=":", label="logistic regression, raw pixels"
    )
    axes.set_xlabel("exit")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 100)
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path)
