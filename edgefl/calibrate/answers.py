"""What every exit answers to held-out samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgefl.errors import SamplesError
from edgefl.runtime.model import Model
from edgefl.runtime.weights import FloatArray
from edgefl.samples import Samples

__all__ = ["MIN_SAMPLES", "answer", "batches", "check_enough"]

MIN_SAMPLES = 20
"""Ten for each fold: below that a threshold is hardly more than a single sample's confidence."""

_SAMPLES_AT_ONCE = 16


def check_enough(samples: Samples) -> None:
    """Refuse samples that are too few.

    Raises:
        SamplesError: If there are fewer than 20.
    """
    if len(samples.labels) < MIN_SAMPLES:
        raise SamplesError(
            f"there are {len(samples.labels)} samples, expected at least {MIN_SAMPLES} that no training has seen; "
            "name a folder with more"
        )


def batches(samples: Samples) -> int:
    """Return how many batches `answer` yields."""
    return -(-len(samples.labels) // _SAMPLES_AT_ONCE)


def answer(model: Model, samples: Samples) -> Iterator[FloatArray]:
    """Answer one batch after the other, at every exit in one pass.

    Args:
        model: The bundle in use.
        samples: The samples; a batch is read when its turn has come.

    Returns:
        Of each batch the logits (E, B, C), in the order of the samples.

    Raises:
        SamplesError: If a sample cannot be read, does not fit, or is answered with NaN or infinity.
    """
    count = len(samples.labels)
    for start in range(0, count, _SAMPLES_AT_ONCE):
        indices = range(start, min(start + _SAMPLES_AT_ONCE, count))
        inputs = model.prepare(samples.read(indices))
        logits = np.stack([prediction.logits for prediction in model.infer(inputs)])
        finite = np.isfinite(logits).all(axis=(0, 2))
        if not finite.all():
            raise SamplesError(
                f"sample {start + int(finite.argmin())}, counted from 0, is answered with NaN or infinite logits; "
                "remove it, or use an earlier adapter"
            )
        yield logits
