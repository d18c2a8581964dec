"""The confidence from which on each exit answers, for a given weight of an error against time."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["fit_thresholds", "stop_at"]

_Floats = np.ndarray[Any, np.dtype[np.float64]]
_Booleans = np.ndarray[Any, np.dtype[np.bool_]]


def fit_thresholds(confidences: _Floats, right: _Booleans, costs: _Floats, weights: _Floats) -> _Floats:
    """Choose thresholds by backward induction: each exit's against what all deeper ones come to.

    At the last exit but one the choice is the best there is, so with two exits the whole is.  With more it need not be:
    an exit is fitted on all samples, also on those that a shallower one will answer.  It is never worse, on these
    samples, than answering always at any one exit.

    Args:
        confidences: (E, N), in [0, 1), of each exit's answer to each sample.
        right: (E, N), whether that answer is right.
        costs: (E,), milliseconds until each exit has answered.
        weights: (L,), milliseconds that avoiding one error is worth.

    Returns:
        (L, E), for each weight a threshold of each exit: 1 is never, 0 always, as at the deepest exit; otherwise half
        way between two confidences, so that rounding on another device changes nothing.
    """
    thresholds = np.zeros((len(weights), len(costs)))
    to_go = costs[-1] + np.outer(weights, ~right[-1])
    for e in reversed(range(len(costs) - 1)):
        stopped = costs[e] + np.outer(weights, ~right[e])
        order = np.argsort(-confidences[e], kind="stable")
        cuts, counts = _cuts(confidences[e][order])
        sums = np.cumsum((stopped - to_go)[:, order], axis=1)
        # What stopping changes, by the number of samples that stop: none, the surest, ..., all.
        changes = np.pad(sums, ((0, 0), (1, 0)))[:, counts]
        thresholds[:, e] = cuts[changes.argmin(axis=1)]
        to_go = np.where(confidences[e] >= thresholds[:, e, None], stopped, to_go)
    return thresholds


def _cuts(falling: _Floats) -> tuple[_Floats, np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the thresholds that tell falling confidences apart, and how many of these reach each; equal ones stay."""
    upper, lower = falling[:-1], falling[1:]
    middle = (upper + lower) / 2
    middle = np.where(middle > lower, middle, upper)  # neighbouring floats have no middle
    different = upper > lower
    cuts = np.concatenate([[1.0], middle[different], [0.0]])
    return cuts, np.concatenate([[0], np.flatnonzero(different) + 1, [len(falling)]])


def stop_at(confidences: _Floats, thresholds: _Floats) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return which exit answers each sample: the first whose confidence reaches its threshold.

    Args:
        confidences: (E, N).
        thresholds: (E,), the last one 0.

    Returns:
        (N,), positions in [0, E).
    """
    first: np.ndarray[Any, np.dtype[np.int64]] = (confidences >= thresholds[:, None]).argmax(axis=0)
    return first
