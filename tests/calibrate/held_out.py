"""What `--samples tests.calibrate.held_out:...` gives the golden bundle."""

from __future__ import annotations

import numpy as np

from edgefl.runtime.weights import FloatArray
from tests.golden_bundle import Labels, random_samples


def forty() -> tuple[FloatArray, Labels]:
    return random_samples(40)


def nineteen() -> tuple[FloatArray, Labels]:
    return random_samples(19)


def too_large() -> tuple[FloatArray, Labels]:
    """Return samples of 20 x 20 where the bundle has 16 x 16."""
    return np.zeros((20, 1, 20, 20), np.float32), random_samples(20)[1]


def with_a_hole() -> tuple[FloatArray, Labels]:
    """Return samples of which one has a value that is no number."""
    samples, labels = random_samples(20)
    samples[17, 0, 3, 3] = np.nan
    return samples, labels
