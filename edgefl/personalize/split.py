"""Samples to train on, and others to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefl.errors import SamplesError
from edgefl.samples import Samples

__all__ = ["MIN_SAMPLES", "Chosen", "Parts", "split"]

MIN_SAMPLES = 10
"""Below that one sample decides whether training has helped, whatever the share."""

Indices = np.ndarray[Any, np.dtype[np.int64]]


class Chosen:
    """Some of the samples, numbered anew from 0.

    Attributes:
        labels: (N,), int64.
    """

    def __init__(self, samples: Samples, indices: Indices) -> None:
        """Choose.

        Args:
            samples: All samples.
            indices: (N,), which ones.
        """
        self._samples, self._indices = samples, indices
        self.labels = samples.labels[indices]

    def read(self, indices: Sequence[int]) -> list[np.ndarray[Any, Any]]:
        """Return samples as `Samples.read` does."""
        return self._samples.read([int(self._indices[index]) for index in indices])


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The samples of a device, each in one of two parts.

    Attributes:
        training: Those to train on.
        validation: Those to judge by, at least one.
    """

    training: Chosen
    validation: Chosen


def split(samples: Samples, share: float, seed: int) -> Parts:
    """Return samples to train on and others to validate with.

    Of each class validation has its share, but for less than one sample.  The same labels, share and seed give the same
    split.

    Args:
        samples: All samples, at least 10.
        share: Of the samples, those to validate with; above 0 and at most 0.5.
        seed: Of the draw.

    Raises:
        SamplesError: If there are fewer than 10.
    """
    labels = samples.labels
    if len(labels) < MIN_SAMPLES:
        raise SamplesError(
            f"there are {len(labels)} samples, expected at least {MIN_SAMPLES}: some only tell whether training has "
            "helped; name a folder with more"
        )
    random = np.random.default_rng(seed)
    drawn = random.permutation(len(labels))
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    # Every so many samples in the order of their classes: a class gives as many as it is long.
    count = max(1, round(share * len(labels)))
    places = ((np.arange(count) + random.random()) * len(labels) / count).astype(np.int64)
    validates = np.zeros(len(labels), bool)
    validates[by_class[places]] = True
    return Parts(
        training=Chosen(samples, np.flatnonzero(~validates)), validation=Chosen(samples, np.flatnonzero(validates))
    )
