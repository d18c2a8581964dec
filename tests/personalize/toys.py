"""What `--samples tests.personalize.toys:...` gives the golden bundle."""

from __future__ import annotations

import numpy as np

from edgefl.runtime.weights import FloatArray
from tests.golden_bundle import Labels, random_samples


def learnable() -> tuple[FloatArray, Labels]:
    """Return 60 samples of two patterns with noise: of five classes this device has two, which are soon learnt."""
    random = np.random.default_rng(5)
    patterns, labels = random.standard_normal((2, 1, 16, 16), np.float32), np.arange(60) % 2
    return patterns[labels] + np.float32(0.5) * random.standard_normal((60, 1, 16, 16), np.float32), labels


def nine() -> tuple[FloatArray, Labels]:
    return random_samples(9)


def ten() -> tuple[FloatArray, Labels]:
    return random_samples(10)


def too_large() -> tuple[FloatArray, Labels]:
    """Return samples of 20 x 20 where the bundle has 16 x 16."""
    return np.zeros((20, 1, 20, 20), np.float32), random_samples(20)[1]


def of_ten_classes() -> tuple[FloatArray, Labels]:
    """Return samples of a bundle with more classes."""
    return random_samples(20)[0], np.arange(20) % 10
