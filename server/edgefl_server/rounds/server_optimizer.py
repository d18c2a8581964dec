"""FedAvgM (Hsu et al. 2019, section 4.3): momentum on the server, per element and only where a client trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgefl_server.rounds.aggregate import Average, FloatArray

__all__ = ["momentum_step"]


def momentum_step(
    old: Mapping[str, FloatArray], average: Average, momentum: Mapping[str, FloatArray], beta: float
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Move the adapter by the round's average and by what earlier rounds left.

    m = beta·m + (new - old), value = old + m.
    An element that nobody touched keeps its value and its momentum: an exit that sat a round out neither drifts nor
    forgets.

    Args:
        old: Values before the round, by tensor.
        average: The round's average.
        momentum: Momentum before the round; a tensor that is missing starts at 0.
        beta: Share of the old momentum that stays, in [0, 1); 0 is FedAvg.

    Returns:
        The new values and the new momentum, float32.
    """
    values: dict[str, FloatArray] = {}
    kept: dict[str, FloatArray] = {}
    for name, before in old.items():
        new, is_touched = average.values[name], average.is_touched[name]
        past = momentum.get(name, np.zeros_like(before))
        # new + beta·m equals old + (beta·m + new - old), and with beta 0 it is the average to the last bit.
        values[name] = new + np.float32(beta) * past * is_touched
        kept[name] = np.where(is_touched, np.float32(beta) * past + (new - before), past)
    return values, kept
