"""Samples of nothing, to measure with."""

from __future__ import annotations

import numpy as np

from edgefl.runtime.model import Model
from edgefl.runtime.weights import FloatArray

__all__ = ["random_samples"]


def random_samples(model: Model, count: int) -> FloatArray:
    """Return normalised samples (count, channels, height, width) of a model's size, the same each time."""
    facts = model.bundle.manifest.model
    shape = (count, facts.channels, facts.image_size, facts.image_size)
    return np.random.default_rng(0).standard_normal(shape, np.float32)
