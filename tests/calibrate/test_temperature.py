"""Temperature scaling: which temperature is found, and what a calibration error is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.calibrate.temperature import expected_calibration_error, fit_temperature
from edgefl.predict.calibration import TEMPERATURES, confidence

Array = np.ndarray[Any, Any]


def two_classes(gap: float, right: int, count: int) -> tuple[Array, Array]:
    """Return logits (count, 2) in which class 0 leads by `gap`, and labels of which the first `right` are 0."""
    return np.tile([gap, 0.0], (count, 1)), (np.arange(count) >= right).astype(np.int64)


def test_logits_three_times_too_large_have_temperature_three() -> None:
    # 7 of 9 right, and half of the added tenth: probability 7.05 / 9.1, odds 7.05 : 2.05.
    logits, labels = two_classes(3.0 * np.log(7.05 / 2.05), right=7, count=9)
    assert fit_temperature(logits, labels) == pytest.approx(3.0, rel=1e-6)

    logits, labels = two_classes(np.log(7.05 / 2.05) / 4.0, right=7, count=9)
    assert fit_temperature(logits, labels) == pytest.approx(0.25, rel=1e-6)


def test_labels_drawn_from_the_probabilities_themselves_give_back_what_the_logits_were_scaled_by() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0.0, 2.0, (20_000, 5))
    # The largest of logits with Gumbel noise is a draw from their softmax.
    labels = (logits + random.gumbel(size=logits.shape)).argmax(-1)

    assert fit_temperature(logits, labels) == pytest.approx(1.0, rel=0.03)
    assert fit_temperature(3.0 * logits, labels) == pytest.approx(3.0, rel=0.03)


def test_an_exit_that_is_always_right_is_not_infinitely_sure() -> None:
    # 20.05 of 20.1, half of the added tenth being right: odds 401 : 1.
    logits, labels = two_classes(2.0 * np.log(401.0), right=20, count=20)

    assert fit_temperature(logits, labels) == pytest.approx(2.0, rel=1e-6)


def test_an_exit_that_is_worse_than_guessing_is_made_as_unsure_as_there_is() -> None:
    logits, labels = two_classes(2.0, right=1, count=20)

    assert fit_temperature(logits, labels) == pytest.approx(20.0, rel=1e-6)


def test_logits_that_are_all_alike_stay_as_they_are() -> None:
    assert fit_temperature(np.full((4, 3), 7.0), np.array([0, 1, 2, 0])) == 1.0


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 1e-30, 1.0, 1e4, 1e37]), count=st.integers(1, 30))
def test_whatever_the_logits_the_temperature_is_in_range_and_no_neighbour_is_likelier(
    seed: int, scale: float, count: int
) -> None:
    random = np.random.default_rng(seed)
    logits = (scale * random.standard_normal((count, 4))).astype(np.float32)
    labels = random.integers(0, 4, count)

    found = fit_temperature(logits, labels)

    assert TEMPERATURES[0] <= found <= TEMPERATURES[1]
    around = np.clip([0.99 * found, found, 1.01 * found], *TEMPERATURES)
    below, here, above = (_loss(logits, labels, float(temperature)) for temperature in around)
    assert here <= min(below, above) * (1 + 1e-6)


def _loss(logits: Array, labels: Array, temperature: float) -> float:
    """Return the negative log-likelihood with the tenth of a sample, from its definition."""
    scaled = logits.astype(np.float64) / temperature
    largest = scaled.max(-1, keepdims=True)
    losses = largest + np.log(np.exp(scaled - largest).sum(-1, keepdims=True)) - scaled
    return float(losses[np.arange(len(labels)), labels].sum() + 0.1 * losses.mean())


def test_the_calibration_error_is_the_mean_gap_between_confidence_and_accuracy_of_the_bins() -> None:
    # Bins of 1/15: two samples at 0.95 of which one is right, one at 0.55 that is wrong, one at 0.3 that is right.
    # (2 * |0.95 - 0.5| + |0.55 - 0| + |0.3 - 1|) / 4 = (0.9 + 0.55 + 0.7) / 4.
    confidences = np.array([0.95, 0.55, 0.95, 0.3])
    right = np.array([True, False, False, True])

    assert expected_calibration_error(confidences, right) == pytest.approx(0.5375)


def test_gaps_of_one_bin_cancel_and_those_of_two_do_not() -> None:
    right = np.array([True, False])

    assert expected_calibration_error(np.array([0.5, 0.5]), right) == 0.0
    assert expected_calibration_error(np.array([0.25, 0.75]), right) == pytest.approx(0.75)


def test_full_confidence_falls_into_the_last_bin() -> None:
    assert expected_calibration_error(np.array([1.0, 0.96]), np.array([True, True])) == pytest.approx(0.02)


def test_the_temperature_lowers_the_calibration_error_of_an_exit_that_is_too_sure() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0.0, 2.0, (10_000, 5))
    labels = (logits + random.gumbel(size=logits.shape)).argmax(-1)
    right = logits.argmax(-1) == labels

    before = expected_calibration_error(confidence(4.0 * logits, 1.0), right)
    after = expected_calibration_error(confidence(4.0 * logits, fit_temperature(4.0 * logits, labels)), right)

    assert before > 0.15
    assert after < 0.04
