"""A calibration as a picture, with the extra `plot`."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgefl.calibrate.outcome import Outcome
from edgefl.core.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["can_draw", "draw", "picture_path"]


def can_draw() -> bool:
    """Say whether the extra `plot` is installed."""
    return find_spec("matplotlib") is not None


def picture_path(folder: Path) -> Path:
    """Return where the picture of a bundle's folder lies."""
    return folder / "calibration.png"


def draw(outcome: Outcome, path: Path) -> None:
    """Draw accuracy against mean time, and accuracy and confidence over the exits.

    Args:
        outcome: What to draw.
        path: PNG file to write, whole or not at all.

    Raises:
        StorageError: If it cannot be written.
    """
    from matplotlib.figure import Figure  # an extra

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_frontier(left, outcome)
    _draw_exits(right, outcome)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    write_atomically(path, [drawn.getvalue()])


def _draw_frontier(axes: Axes, outcome: Outcome) -> None:
    found = outcome.calibration
    costs, accuracies = [p.cost_ms for p in found.frontier], [100 * p.accuracy for p in found.frontier]
    axes.plot(costs, accuracies, ".-", drawstyle="steps-post", label="frontier, cross-validated")
    axes.plot(
        [row.milliseconds for row in outcome.rows],
        [100 * row.exit.accuracy for row in outcome.rows],
        "o",
        fillstyle="none",
        label="always one exit",
    )
    axes.plot([found.chosen.cost_ms], [100 * found.chosen.accuracy], "*", markersize=12, label="chosen")
    axes.set_xlabel("mean time of an answer, ms")
    axes.set_ylabel("accuracy, %")
    axes.legend()


def _draw_exits(axes: Axes, outcome: Outcome) -> None:
    exits = [str(row.exit.exit_index) for row in outcome.rows]
    axes.plot(exits, [100 * row.exit.accuracy for row in outcome.rows], "o-", label="accuracy")
    axes.plot(exits, [100 * row.confidence_before for row in outcome.rows], "--", label="confidence, temperature 1")
    axes.plot(exits, [100 * row.confidence_after for row in outcome.rows], "-", label="confidence, calibrated")
    axes.set_xlabel("exit")
    axes.set_ylabel("%")
    axes.legend()
