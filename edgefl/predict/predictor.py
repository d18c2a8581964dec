"""One sample after the other, as deep as the policy lets it go."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from edgefl.policy import Decision, ExitCost, Reason, Request, Rules, choose_exit, why_stop
from edgefl.predict.calibration import confidence
from edgefl.runtime.model import Model
from edgefl.signals import Source

__all__ = ["ExitAnswer", "Predictor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitAnswer:
    """What one exit answers to one sample.

    Attributes:
        exit_index: The exit.
        label: The most probable class.
        confidence: Its probability, calibrated where a calibration is there, in [0, 1].
        elapsed_ms: Time since the request began.
        stopped: Why no deeper exit follows; None where one does.
    """

    exit_index: int
    label: int
    confidence: float
    elapsed_ms: float
    stopped: Reason | None


class Predictor:
    """Answers by signals, costs and calibration.

    Attributes:
        costs: Of the model's exits, measured or not.
        decision: The latest one.
    """

    def __init__(
        self,
        model: Model,
        source: Source,
        rules: Rules,
        costs: Sequence[ExitCost],
        temperatures: Mapping[int, float],
    ) -> None:
        """Take a model into use.

        Args:
            model: The model.
            source: Of the device's signals, read for each sample.
            rules: What the owner of the device wants.
            costs: Of the model's exits, rising.
            temperatures: Of each exit, as calibrated, or 1.
        """
        self.costs = tuple(costs)
        self._model, self._source, self._rules = model, source, rules
        self._temperatures = temperatures
        self._previous: int | None = None
        self.decision = self._decide(Request())

    def answer(self, image: np.ndarray[Any, Any], request: Request, started: float) -> Iterator[ExitAnswer]:
        """Answer at one exit after the other, until there is a reason to stop.

        Args:
            image: One, as `Model.infer` takes it.
            request: What who asks can accept.
            started: When the request began, by `time.perf_counter`.

        Raises:
            SamplesError: If the image does not fit.
        """
        sample = self._model.preprocess(image)
        begun = time.perf_counter()
        request = _remaining(request, 1000.0 * (begun - started))
        decision = self.decision = self._decide(request)
        for prediction in self._model.infer(sample):
            now = time.perf_counter()
            sure = float(confidence(prediction.logits, self._temperatures[prediction.exit_index])[0])
            stopped = why_stop(decision, self.costs, request, prediction.exit_index, sure, 1000.0 * (now - begun))
            yield ExitAnswer(
                exit_index=prediction.exit_index,
                label=int(prediction.labels[0]),
                confidence=sure,
                elapsed_ms=1000.0 * (now - started),
                stopped=stopped,
            )
            if stopped is not None:
                return

    def _decide(self, request: Request) -> Decision:
        signals = self._source.read()
        decision = choose_exit(self.costs, signals, request, self._rules, self._previous)
        # What one request can accept says nothing of the noise of signals: only theirs is the exit to compare with.
        unasked = choose_exit(self.costs, signals, Request(), self._rules, self._previous)
        self._previous = unasked.exit_index
        return decision


def _remaining(request: Request, elapsed_ms: float) -> Request:
    if request.deadline_ms is None:
        return request
    return msgspec.structs.replace(request, deadline_ms=max(0.0, request.deadline_ms - elapsed_ms))
