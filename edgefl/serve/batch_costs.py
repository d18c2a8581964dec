"""What batches of each size take on this device, exit by exit."""

from __future__ import annotations

import time
from collections.abc import Sequence

from edgefl.policy.batching import BatchCosts
from edgefl.predict.costs import median_steps
from edgefl.runtime.model import Model
from edgefl.runtime.random_samples import random_samples
from edgefl.runtime.weights import FloatArray

__all__ = ["measure_batches"]


def measure_batches(model: Model, sizes: Sequence[int], repetitions: int = 5) -> BatchCosts:
    """Run batches of random samples through all exits, of which the deepest answers.

    Args:
        model: The model.
        sizes: Samples of the batches, rising from 1.
        repetitions: Timed runs of each size, after one that is not.
    """
    reached, answers = [], []
    # The largest first: its memory serves the smaller ones, and all of them stay ready.
    for size in reversed(sizes):
        samples = random_samples(model, size)
        steps = median_steps([_timed(model, samples) for _ in range(1 + repetitions)][1:])
        reached.append(tuple(steps[:-1].cumsum().tolist()))
        answers.append(float(steps[-1]))
    return BatchCosts(sizes=tuple(sizes), reached=tuple(reached[::-1]), answer=tuple(answers[::-1]))


def _timed(model: Model, samples: FloatArray) -> list[float]:
    """Return the seconds until each exit was reached, and until the deepest had answered."""
    times: list[float] = []
    started = time.perf_counter()

    def wanted(exit_index: int) -> bool:
        times.append(time.perf_counter() - started)
        return exit_index == model.exits[-1]

    for prediction in model.infer(samples, wanted=wanted):
        del prediction
    return [*times, time.perf_counter() - started]
