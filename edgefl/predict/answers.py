"""Answers to files as records, and as text for people."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from edgefl.core.report import Label, Record
from edgefl.policy import Decision
from edgefl.predict.predictor import ExitAnswer

__all__ = ["explain", "name_of", "records_of", "summary"]


def name_of(file: Path) -> str:
    """Return a file's name as text, of which some bytes may be none."""
    return os.fsencode(file).decode(errors="backslashreplace")


def records_of(file: Path, answers: Sequence[ExitAnswer]) -> list[Record]:
    """Return the records of one file; its answers end with the one that stopped."""
    records = []
    for answer in answers:
        labels: dict[str, Label] = {"file": name_of(file), "exit": answer.exit_index}
        records += [
            Record(name="label", unit="1", value=answer.label, labels=labels),
            Record(name="confidence", unit="1", value=answer.confidence, labels=labels),
            Record(name="exit_ms", unit="ms", value=answer.elapsed_ms, labels=labels),
        ]
    last = answers[-1]
    why: dict[str, Label] = {"file": name_of(file), "stop_reason": last.stopped.rule if last.stopped else ""}
    return [*records, Record(name="chosen_exit", unit="1", value=last.exit_index, labels=why)]


def summary(file: Path, answer: ExitAnswer) -> str:
    """Return one line: the answer that counts, and why it does."""
    why = f": {answer.stopped.text}" if answer.stopped else ""
    return (
        f"{name_of(file)}  class {answer.label}  confidence {answer.confidence:.3f}  exit {answer.exit_index}  "
        f"{answer.elapsed_ms:.1f} ms{why}"
    )


def explain(file: Path, answers: Sequence[ExitAnswer], decision: Decision, *, to_stderr: bool) -> None:
    """Print every exit on the way, and all that limited the depth."""
    table = Table(title=name_of(file))
    for heading in ("exit", "class", "confidence", "needed", "ms"):
        table.add_column(heading, justify="right")
    for answer in answers:
        needed = decision.thresholds.get(answer.exit_index, 1.0)
        table.add_row(
            str(answer.exit_index),
            str(answer.label),
            f"{answer.confidence:.3f}",
            f"{needed:.3f}" if needed < 1.0 else "",
            f"{answer.elapsed_ms:.1f}",
        )
    Console(stderr=to_stderr).print(table)
    for reason in decision.reasons:
        click.echo(f"  {reason.rule}: {reason.text} (exit {reason.exit_index})", err=to_stderr)
