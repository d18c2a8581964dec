"""Fine-tuning as people read it."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edgefl.personalize.outcome import Outcome

__all__ = ["print_outcome"]

_COLUMNS = ("exit", "global, % right", "kept, % right", "global, loss", "kept, loss")


def print_outcome(outcome: Outcome, exit_index: int, *, to_stderr: bool) -> None:
    """Print one row for each exit, and which adapter is kept.

    Args:
        outcome: What to print.
        exit_index: The exit that was trained.
        to_stderr: Where to.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in _COLUMNS:
        table.add_column(heading, justify="right")
    for e, before in outcome.before.items():
        after = outcome.after[e]
        accuracies = [f"{100 * score.accuracy:.1f}" for score in (before, after)]
        losses = [f"{score.loss:.4f}" for score in (before, after)]
        table.add_row(f"{e} *" if e == exit_index else str(e), *accuracies, *losses)
    console = Console(stderr=to_stderr, highlight=False)
    console.print(table)
    console.print(_summary(outcome))


def _summary(outcome: Outcome) -> str:
    epochs = len(outcome.epoch_seconds)
    if outcome.kept == "global":
        kept = f"kept: the global adapter; none of {epochs} epochs was better at the exit with the *"
    elif outcome.best_epoch:
        kept = f"kept: the personal adapter of epoch {outcome.best_epoch} of {epochs}; --undo removes it"
    else:
        kept = f"kept: the personal adapter there was; none of {epochs} epochs was better at the exit with the *"
    return f"{kept}\nright and loss: of {outcome.num_validation} samples that were held out of training"
