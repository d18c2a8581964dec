"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599): one number that makes confidence mean what it says."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgefl.predict.calibration import TEMPERATURES

__all__ = ["expected_calibration_error", "fit_temperature"]

_ADDED = 0.1
_HALVINGS = 24
_BINS = 15


def fit_temperature(logits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """Return the temperature with the least negative log-likelihood (ibid., §4.2).

    To the samples comes a tenth of one that belongs to all classes alike, after Platt's (1999) for two classes: without
    it an exit that happens to be always right would be infinitely sure, and with a whole one few samples make unsure.

    Args:
        logits: (N, C) of one exit, finite.
        labels: (N,), integers in [0, C).

    Returns:
        One of `TEMPERATURES`' range, to 6 digits; 1 where all logits of every sample are equal.
    """
    # Differences from the largest: nothing overflows, and no probability changes.
    margins = logits.astype(np.float64)
    margins -= margins.max(-1, keepdims=True)
    if not margins.any():
        return 1.0
    wanted = margins[np.arange(len(labels)), labels].sum() + _ADDED * margins.mean()
    coldest, hottest = (float(np.log(temperature)) for temperature in TEMPERATURES)
    for _ in range(_HALVINGS):
        middle = (coldest + hottest) / 2
        # The likelihood is concave in 1 / temperature, so its slope has one zero and says on which side that lies.
        if _expected(margins, float(np.exp(middle))) > wanted:
            coldest = middle
        else:
            hottest = middle
    return float(np.exp((coldest + hottest) / 2))


def _expected(margins: np.ndarray[Any, np.dtype[np.float64]], temperature: float) -> float:
    """Return the sum, over all samples and what is added, of the margin that the probabilities expect."""
    weights = np.exp(margins / temperature)
    expected = (weights * margins).sum(-1) / weights.sum(-1)
    return float(expected.sum() + _ADDED * expected.mean())


def expected_calibration_error(confidences: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    """Return how far confidence is from accuracy, on average over 15 bins of equal width (ibid., §2).

    Args:
        confidences: (N,), in [0, 1].
        right: (N,), whether each answer is right.

    Returns:
        From 0 to 1.
    """
    bins = np.minimum((confidences * _BINS).astype(np.int64), _BINS - 1)
    # A bin's gap times its share of samples is the difference of two sums over it.
    gaps = np.bincount(bins, confidences - right, _BINS)
    return float(np.abs(gaps).sum() / len(confidences))
