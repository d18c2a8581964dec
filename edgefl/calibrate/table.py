"""A calibration as people read it."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edgefl.calibrate.outcome import Outcome

__all__ = ["print_outcome"]

_COLUMNS = ("exit", "right, %", "temp.", "ECE", "ECE at temp. *", "threshold", "ms", "stop there, % *")


def print_outcome(outcome: Outcome, *, to_stderr: bool) -> None:
    """Print one row for each exit, and what the thresholds come to."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in _COLUMNS:
        table.add_column(heading, justify="right")
    for row in outcome.rows:
        table.add_row(
            str(row.exit.exit_index),
            f"{100 * row.exit.accuracy:.1f}",
            f"{row.exit.temperature:.3g}",
            f"{row.exit.calibration_error_before:.3f}",
            f"{row.exit.calibration_error_after:.3f}",
            _threshold(row.exit.threshold),
            f"{row.milliseconds:.2f}",
            f"{100 * row.share:.1f}",
        )
    console = Console(stderr=to_stderr, highlight=False)
    console.print(table)
    console.print(_summary(outcome))


def _threshold(value: float) -> str:
    return {0.0: "always", 1.0: "never"}.get(value, f"{value:.4f}")


def _summary(outcome: Outcome) -> str:
    found = outcome.calibration
    chosen, deepest = found.chosen, found.deepest
    return (
        f"with these thresholds: {100 * chosen.accuracy:.1f} % right, {chosen.cost_ms:.2f} ms on average *\n"
        f"always exit {found.exits[-1].exit_index}: {100 * deepest.accuracy:.1f} % right, {deepest.cost_ms:.2f} ms\n"
        f"* Two-fold cross-validated on {found.num_samples} samples: from each half with what was fitted on the other. "
        "Temperatures and thresholds themselves are fitted on all samples."
    )
