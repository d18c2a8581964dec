"""A predictor over many samples: hysteresis of its signals, and deadlines that have partly run out."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest

from edgefl.core.signals import Signals
from edgefl.policy import ExitCost, Request, Rules
from edgefl.predict.predictor import Predictor
from tests.golden_bundle import random_samples, trained_model

# Exit e takes 10 (e + 1) ms by what the predictor is told; in truth it takes less than one.
COSTS = [ExitCost(exit_index=e, milliseconds=10.0 * (e + 1)) for e in (0, 1, 2)]


class Played:
    """One reading after the other."""

    def __init__(self, readings: Sequence[Signals]) -> None:
        self._readings = iter(readings)

    def read(self) -> Signals:
        """Return the next one."""
        return next(self._readings)


def predictor(*readings: Signals) -> Predictor:
    temperatures = dict.fromkeys((0, 1, 2), 1.0)
    return Predictor(trained_model(), Played([Signals(), *readings]), Rules(), COSTS, temperatures)


def deepest(predictor: Predictor, request: Request, age_ms: float = 0.0) -> tuple[int, str]:
    sample = random_samples(1)[0]
    *_, last = predictor.answer(sample, request, time.perf_counter() - age_ms / 1000.0)
    assert last.stopped is not None
    return last.exit_index, last.stopped.rule


def test_noise_around_a_threshold_changes_nothing_even_between_requests_with_deadlines() -> None:
    # Three exits have a third each of 10 % to 90 %: exit 2 begins at 63.3 %, and is taken again from 68.3 %.
    charges = [0.62, 0.64, 0.67, 0.69]
    several = predictor(*(Signals(charge=charge, charging=False) for charge in charges))

    requests = [Request(), Request(deadline_ms=10_000.0), Request(), Request()]
    assert [deepest(several, request)[0] for request in requests] == [1, 1, 1, 2]


def test_a_short_deadline_of_one_request_does_not_keep_the_next_one_shallow() -> None:
    # At 66 % exit 2 is allowed, but would not be taken again after exit 0 or 1.
    charged = Signals(charge=0.66, charging=False)
    several = predictor(charged, charged)

    assert deepest(several, Request(deadline_ms=15.0))[0] == 0
    assert deepest(several, Request())[0] == 2


@pytest.mark.parametrize(("age_ms", "expected"), [(0.0, 2), (75.0, 1), (88.0, 0), (5000.0, 0)])
def test_time_that_is_over_when_the_answer_begins_is_no_longer_there(age_ms: float, expected: int) -> None:
    # Of 100 ms, 100, 25, 12 and none are left, less the moment the sample takes; exits are told to take 10, 20 and 30.
    assert deepest(predictor(Signals()), Request(deadline_ms=100.0), age_ms)[0] == expected


def test_answers_come_one_by_one_and_nobody_computes_what_is_not_taken() -> None:
    model = trained_model()
    answers = Predictor(model, Played([Signals(), Signals()]), Rules(), COSTS, dict.fromkeys((0, 1, 2), 1.0)).answer(
        random_samples(1)[0], Request(), time.perf_counter()
    )

    first = next(answers)
    answers.close()

    expected = next(model.infer(random_samples(1)[0]))
    assert (first.exit_index, first.stopped) == (0, None)
    assert first.label == int(expected.labels[0])
    assert first.confidence == pytest.approx(float(np.max(expected.probabilities)), rel=1e-6)
