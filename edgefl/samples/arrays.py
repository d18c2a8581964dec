"""Samples that are in memory already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgefl.errors import SamplesError

__all__ = ["ArraySamples", "check_labels"]


class ArraySamples:
    """Samples from arrays.

    Attributes:
        labels: (N,), int64.
    """

    def __init__(self, samples: Any, labels: Any, classes: int) -> None:
        """Take arrays.

        Args:
            samples: uint8 (N, H, W, 3), or float32 (N, channels, height, width) as the model reads them.
            labels: (N,), integers in [0, classes).
            classes: Number of classes of the model.

        Raises:
            SamplesError: If shapes, types or labels do not fit.
        """
        self._samples = np.asarray(samples)
        if self._samples.ndim != 4 or self._samples.dtype not in (np.uint8, np.float32):
            raise SamplesError(
                f"samples are {self._samples.dtype} of shape {self._samples.shape}; expected uint8 (N, H, W, 3) "
                "or float32 (N, channels, height, width)"
            )
        self.labels = check_labels(np.asarray(labels), len(self._samples), classes)

    def read(self, indices: Sequence[int]) -> list[np.ndarray[Any, Any]]:
        """Return samples as they were given."""
        return [self._samples[index] for index in indices]


def check_labels(labels: np.ndarray[Any, Any], count: int, classes: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return labels as int64.

    Raises:
        SamplesError: If there are none, not one for each sample, or one that is no class.
    """
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise SamplesError(f"labels are {labels.dtype} of shape {labels.shape}, expected {count} integers")
    if not count:
        raise SamplesError("there are no samples; give at least one")
    if labels.min() < 0 or labels.max() >= classes:
        raise SamplesError(
            f"labels run from {labels.min()} to {labels.max()}, the model has classes 0 to {classes - 1}"
        )
    return labels.astype(np.int64)
