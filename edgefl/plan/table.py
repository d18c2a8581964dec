"""Decisions as people read them: a table, what it counts, and why a budget affords nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgefl.plan.decision import Budget, Decision

__all__ = ["print_decisions", "shortfall"]

_COLUMNS = ("budget", "exit", "knob", "planned", "mapped", "upload", "step, s", "limited by")


def print_decisions(decisions: Mapping[Budget, Decision], title: str, gflops: float, *, to_stderr: bool) -> None:
    """Print one row for each budget, and below what the numbers mean.

    Args:
        decisions: What each budget affords; budgets differ in memory alone.
        title: What is trained.
        gflops: The assumed speed, in GFLOP/s.
        to_stderr: Whether standard output is taken.
    """
    table = Table(title=Text(f"{title}; sizes in MB"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in _COLUMNS:
        table.add_column(heading, justify="left" if heading == "limited by" else "right")
    for budget, decision in decisions.items():
        table.add_row(f"{budget.memory_bytes / 1e6:.1f}", *_cells(decision))
    console = Console(stderr=to_stderr, highlight=False)
    console.print(table)
    for line in dict.fromkeys(_refusal(budget, decision) for budget, decision in decisions.items()):
        if line:
            console.print(line)
    baseline = next(iter(decisions)).baseline_bytes
    console.print(
        f"A memory budget is compared with planned bytes and {baseline / 1e6:.1f} MB for Python and the imports "
        "(--baseline). Not counted: mapped weights, which the kernel may drop, and what the runtime holds for opened "
        "graphs. Upload is one reply of a round.\n"
        f"Seconds assume {gflops:g} GFLOP/s (--gflops) with every knob, and are not measured. "
        "`edgefl measure DIR --mode train` on the device gives true memory and time."
    )


def _refusal(budget: Budget, decision: Decision) -> str:
    """Say why a budget affords nothing, without its memory where that is not why; empty if it affords an exit."""
    if decision.affordable:
        return ""
    what = f"{budget.memory_bytes / 1e6:.1f} MB affords" if "memory" in decision.limits else "more memory would afford"
    return f"{what} no exit: {shortfall(budget, decision)}"


def shortfall(budget: Budget, decision: Decision) -> str:
    """Say how large the budget would have to be that affords an exit, where this one affords none."""
    step = decision.step
    takes = {
        "memory": f"{_up(step.planned_bytes + budget.baseline_bytes)} MB of memory",
        "upload": f"{_up(step.upload_bytes)} MB of upload",
        "time": f"{math.ceil(step.seconds * 1000) / 1000:.3f} s",
    }
    lacking = " and ".join(takes[limit] for limit in decision.limits)
    return f"the smallest budget that does has {lacking} (exit {step.exit_index}, {step.memory})"


def _cells(decision: Decision) -> list[str]:
    limits = " and ".join(decision.limits)
    if not decision.affordable:
        return ["none", "", "", "", "", "", limits]
    step = decision.step
    sizes = (step.planned_bytes, step.mapped_bytes, step.upload_bytes)
    amounts = [*(f"{size / 1e6:.1f}" for size in sizes), f"{step.seconds:.3f}"]
    return [str(step.exit_index), step.memory, *amounts, limits or "nothing: deepest exit"]


def _up(size: int) -> str:
    """Return MB with one decimal, rounded up: a budget of what is printed must do."""
    return f"{math.ceil(size / 1e5) / 10:.1f}"
