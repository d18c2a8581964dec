"""What an answer at each exit costs on this device, in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from edgefl.policy import ExitCost
from edgefl.runtime.model import Model
from edgefl.runtime.random_samples import random_samples
from edgefl.runtime.weights import FloatArray
from edgefl.signals import EnergyMeter

__all__ = ["exit_costs", "measure_costs", "median_steps", "warm_up"]


def warm_up(model: Model) -> None:
    """Answer an image once at every exit, so that no later answer waits for a graph to be opened."""
    size = model.bundle.manifest.model.image_size
    for _ in model.infer(np.zeros((size, size, 3), np.uint8)):
        pass


def measure_costs(model: Model, repetitions: int = 5) -> tuple[ExitCost, ...]:
    """Answer one random sample at every exit in one pass, repeatedly, after a pass that opens the graphs.

    Args:
        model: The bundle in use, with its adapter and memory knob.
        repetitions: Timed passes, at least 1.

    Returns:
        One cost for each exit, not falling: from the start of a pass until that exit has answered.
    """
    warm_up(model)
    sample, meter = random_samples(model, 1), EnergyMeter()
    passes = [_timed_pass(model, sample) for _ in range(repetitions)]
    return exit_costs(model.exits, passes, meter.millijoules())


def exit_costs(
    exits: Sequence[int], passes: Sequence[Sequence[float]], millijoules: float | None
) -> tuple[ExitCost, ...]:
    """Turn timed passes into costs.

    Args:
        exits: The exits, rising.
        passes: Of each pass the seconds until each exit had answered, which rise.
        millijoules: Energy of all passes together, None where no meter tells.  An exit has a share of one pass's
            energy, that of its time in the time of the deepest.
    """
    milliseconds = median_steps(passes).cumsum().tolist()
    power = None if millijoules is None else millijoules / len(passes) / milliseconds[-1]
    return tuple(
        ExitCost(exit_index=exit_index, milliseconds=time_ms, millijoules=None if power is None else power * time_ms)
        for exit_index, time_ms in zip(exits, milliseconds, strict=True)
    )


def median_steps(passes: Sequence[Sequence[float]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return how many milliseconds pass from one moment of a pass to the next, the first from its start.

    Of each step the median counts: a pause of the system falls into one step and is not charged to all later ones.

    Args:
        passes: Of each pass the seconds until each moment, which rise.
    """
    steps: np.ndarray[tuple[int], np.dtype[np.float64]] = np.median(
        np.diff(np.array(passes), axis=1, prepend=0.0), axis=0
    )
    return 1000.0 * steps


def _timed_pass(model: Model, sample: FloatArray) -> list[float]:
    started = time.perf_counter()
    return [time.perf_counter() - started for _ in model.infer(sample)]
