"""How well an adapter answers samples that it is not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefl.runtime.model import Model
from edgefl.runtime.prediction import Prediction
from edgefl.runtime.step_inputs import DecodedInputs, StepInputs
from edgefl.runtime.weights import FloatArray
from edgefl.samples import Samples

__all__ = ["Score", "evaluate", "evaluate_exit"]

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


def evaluate(model: Model, samples: Samples) -> dict[int, Score]:
    """Return the score of the model at each of its exits.

    Args:
        model: The bundle in use, with the adapter in question.
        samples: At least one; decoded a few at a time.

    Raises:
        SamplesError: If a sample cannot be read or does not fit the model.
    """
    inputs, sums = DecodedInputs(model, samples), {e: _Sum() for e in model.exits}
    for indices in _pieces(samples):
        for answer in model.infer(inputs.read(indices, model.exits[-1])):
            sums[answer.exit_index].add(answer, samples.labels[indices])
    return {e: each.score for e, each in sums.items()}


def evaluate_exit(model: Model, samples: Samples, inputs: StepInputs, exit_index: int) -> Score:
    """Return the score of the model at one exit.

    Args:
        model: The bundle in use, with the adapter in question.
        samples: At least one.
        inputs: The same samples, or their features to answer from.
        exit_index: The exit.

    Raises:
        ExitsError: If the bundle does not have the exit.
        SamplesError: If a sample cannot be read or does not fit the model.
    """
    found = _Sum()
    for indices in _pieces(samples):
        found.add(model.answer(inputs.read(indices, exit_index), exit_index), samples.labels[indices])
    return found.score


def _pieces(samples: Samples) -> Iterator[list[int]]:
    count = len(samples.labels)
    for start in range(0, count, _SAMPLES_AT_ONCE):
        yield list(range(start, min(start + _SAMPLES_AT_ONCE, count)))


class _Sum:
    """Right answers and losses of one exit, so far."""

    def __init__(self) -> None:
        self._count, self._right, self._loss = 0, 0, 0.0

    def add(self, answer: Prediction, labels: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """Add a batch with labels (B,)."""
        self._count += len(labels)
        self._right += int((answer.labels == labels).sum())
        self._loss += float(_losses(answer.logits, labels).sum())

    @property
    def score(self) -> Score:
        """The mean of all samples that were added."""
        return Score(accuracy=self._right / self._count, loss=self._loss / self._count)


# What overflows is not finite any more, and that is looked at.
@np.errstate(over="ignore", invalid="ignore")
def _losses(logits: FloatArray, labels: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return each sample's cross-entropy, (B,)."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    losses: np.ndarray[Any, np.dtype[np.float64]] = np.log(np.exp(shifted).sum(-1))
    losses -= shifted[np.arange(len(labels)), labels]
    return losses
