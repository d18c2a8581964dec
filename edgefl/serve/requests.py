"""What a request asks: its sample, and how deep it may go."""

from __future__ import annotations

import io
import math
import time
from dataclasses import dataclass

import msgspec
import numpy as np

from edgefl.core.exits import check_exits
from edgefl.errors import BadInputError, SamplesError
from edgefl.policy import Decision, ExitCost, Request, Rules, choose_exit
from edgefl.runtime.model import Model
from edgefl.runtime.weights import FloatArray
from edgefl.samples.folder import decode_image
from edgefl.serve import predict_pb2 as pb
from edgefl.serve.engine import LateError
from edgefl.signals import Source

__all__ = ["Asked", "Requests"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How deep a request may go.

    Attributes:
        decision: The deepest exit that signals, the owner's rules and the request allow, and why.
        least_exit: The shallowest that may answer; never deeper than that one.
        min_confidence: Confidence at which a shallower exit will do; None for what is calibrated.
    """

    decision: Decision
    least_exit: int
    min_confidence: float | None


class Requests:
    """Reads requests.

    Args:
        model: The model that is asked.
        source: Of the device's signals.
        rules: What the owner of the device wants.
        most_pixels: Of an image.
    """

    def __init__(self, model: Model, source: Source, rules: Rules, most_pixels: int) -> None:
        self._model, self._source, self._rules, self._most_pixels = model, source, rules, most_pixels
        self._costs = [ExitCost(exit_index=exit_index) for exit_index in model.exits]
        self._previous: int | None = None

    def sample(self, request: pb.PredictRequest, deadline: float) -> FloatArray:
        """Return what a request asks about, (1, channels, height, width).

        Raises:
            BadInputError: If there is nothing, or nothing that can be read.
            LateError: If nobody waits for it any more.
        """
        if time.monotonic() >= deadline:
            raise LateError("the deadline passed before the image was read")
        if request.WhichOneof("input") == "sample":
            return self._given(request.sample.values)
        if not request.image:
            raise BadInputError("the request has no image; send the bytes of an image file, or a normalised sample")
        return self._model.preprocess(decode_image(io.BytesIO(request.image), "the image", self._most_pixels))

    def asked(self, request: pb.PredictRequest) -> Asked:
        """Return how deep a request may go.

        Raises:
            BadInputError: If it asks for an exit that the bundle does not have, or for what is no confidence.
        """
        confidence = request.min_confidence if request.HasField("min_confidence") else None
        if confidence is not None and not 0.0 <= confidence <= 1.0:
            raise BadInputError(f"min_confidence is {confidence}, expected a number from 0 to 1")
        least, most = self._narrowed(request)
        rules, signals = self._rules, self._source.read()
        limits = [exit_index for exit_index in (rules.max_exit, most) if exit_index is not None]
        narrowed = msgspec.structs.replace(rules, max_exit=min(limits, default=None))
        decision = choose_exit(self._costs, signals, Request(), narrowed, self._previous)
        # What one request can accept says nothing of the noise of signals.
        self._previous = choose_exit(self._costs, signals, Request(), rules, self._previous).exit_index
        wanted = max(least or 0, rules.min_exit or 0)
        return Asked(decision=decision, least_exit=min(wanted, decision.exit_index), min_confidence=confidence)

    def _narrowed(self, request: pb.PredictRequest) -> tuple[int | None, int | None]:
        least = request.min_exit if request.HasField("min_exit") else None
        most = request.max_exit if request.HasField("max_exit") else None
        asked = tuple(exit_index for exit_index in (least, most) if exit_index is not None)
        check_exits(asked, self._model.exits, f"bundle {self._model.bundle.folder.name}")
        if least is not None and most is not None and least > most:
            raise BadInputError(f"min_exit {least} is deeper than max_exit {most}")
        return least, most

    def _given(self, values: bytes) -> FloatArray:
        facts = self._model.bundle.manifest.model
        shape = (1, facts.channels, facts.image_size, facts.image_size)
        wanted = 4 * math.prod(shape)
        if len(values) != wanted:
            raise SamplesError(f"the sample has {len(values)} bytes, expected {wanted}: float32 {shape[1:]}")
        sample = np.frombuffer(values, "<f4").reshape(shape)
        # Whoever is answered together must not fail for one of them.
        if not np.isfinite(sample).all():
            raise SamplesError("the sample has NaN or infinite values; clean it")
        return sample
