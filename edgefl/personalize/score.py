"""How well an adapter answers samples that it is not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefl.runtime.model import Model
from edgefl.runtime.weights import FloatArray
from edgefl.samples import Samples

__all__ = ["Score", "evaluate"]

_SAMPLES_AT_ONCE = 8
"""Fewer than any training step has in memory for its backward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Of one exit.

    Attributes:
        accuracy: Share of the samples that are answered right, from 0 to 1.
        loss: Mean cross-entropy, in nats; NaN or infinite where an answer is.
    """

    accuracy: float
    loss: float

    def is_better_than(self, other: Score) -> bool:
        """Say whether more samples are right, or as many with a lower loss; what is not finite is never better."""
        if not math.isfinite(self.loss):
            return False
        return not math.isfinite(other.loss) or (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


# What overflows is not finite any more, and that is looked at.
@np.errstate(over="ignore", invalid="ignore")
def evaluate(model: Model, samples: Samples, exit_index: int | None = None) -> dict[int, Score]:
    """Return the score of the model at each of its exits, or at one.

    Args:
        model: The bundle in use, with the adapter in question.
        samples: At least one; decoded a few at a time.
        exit_index: The exit; None for all of them.

    Raises:
        ExitsError: If the bundle does not have the exit.
        SamplesError: If a sample cannot be read or does not fit the model.
    """
    count = len(samples.labels)
    right: dict[int, int] = {}
    loss: dict[int, float] = {}
    for start in range(0, count, _SAMPLES_AT_ONCE):
        indices = range(start, min(start + _SAMPLES_AT_ONCE, count))
        labels = samples.labels[start : indices.stop]
        for answer in model.infer(model.prepare(samples.read(indices)), exit_index):
            e = answer.exit_index
            right[e] = right.get(e, 0) + int((answer.labels == labels).sum())
            loss[e] = loss.get(e, 0.0) + float(_losses(answer.logits, labels).sum())
    return {e: Score(accuracy=right[e] / count, loss=loss[e] / count) for e in right}


def _losses(logits: FloatArray, labels: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return each sample's cross-entropy, (B,)."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    losses: np.ndarray[Any, np.dtype[np.float64]] = np.log(np.exp(shifted).sum(-1))
    losses -= shifted[np.arange(len(labels)), labels]
    return losses
