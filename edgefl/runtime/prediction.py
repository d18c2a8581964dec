"""What an exit answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefl.runtime.weights import FloatArray

__all__ = ["Prediction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What one exit answers.

    Attributes:
        exit_index: The exit.
        logits: (B, C).
    """

    exit_index: int
    logits: FloatArray

    @property
    def probabilities(self) -> FloatArray:
        """Softmax of the logits, (B, C)."""
        shifted = np.exp(self.logits - self.logits.max(-1, keepdims=True))
        probabilities: FloatArray = shifted / shifted.sum(-1, keepdims=True)
        return probabilities

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The most probable class of each sample, (B,)."""
        labels: np.ndarray[Any, np.dtype[np.int64]] = self.logits.argmax(-1)
        return labels

    @property
    def confidence(self) -> FloatArray:
        """The largest probability of each sample, (B,), in [0, 1]."""
        confidence: FloatArray = self.probabilities.max(-1)
        return confidence
