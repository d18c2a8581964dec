"""The gRPC methods: from messages to tickets and from answers to messages."""

from __future__ import annotations

import asyncio
import io
import math
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import msgspec
import numpy as np

from edgefl.core.exits import check_exits
from edgefl.errors import BadInputError, EdgeFLError, SamplesError
from edgefl.policy import Decision, ExitCost, Request, Rules, choose_exit
from edgefl.runtime.model import Model
from edgefl.runtime.weights import FloatArray
from edgefl.samples.folder import decode_image
from edgefl.serve import predict_pb2 as pb
from edgefl.serve.engine import EndingError, Engine, LateError
from edgefl.serve.metrics import Metrics
from edgefl.serve.predict_pb2_grpc import AnytimeServicer
from edgefl.serve.ticket import Served, Ticket
from edgefl.signals import Source

__all__ = ["AnytimeService"]

_MOST_PIXELS = 50e6
_DECODERS = 2

if TYPE_CHECKING:  # gRPC's classes have parameters only there
    _Context = grpc.aio.ServicerContext[Any, Any]


class AnytimeService(AnytimeServicer):
    """Answers requests with an engine.

    Args:
        model: The model, to prepare samples with.
        engine: Answers.
        source: Of the device's signals.
        rules: What the owner of the device wants.
        metrics: Count.
    """

    def __init__(self, model: Model, engine: Engine, source: Source, rules: Rules, metrics: Metrics) -> None:
        self._model, self._engine, self._source, self._rules, self._metrics = model, engine, source, rules, metrics
        self._costs = [ExitCost(exit_index=exit_index) for exit_index in model.exits]
        self._previous: int | None = None
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")

    async def Predict(self, request: pb.PredictRequest, context: _Context) -> pb.Answer:  # noqa: N802  # gRPC's name
        """Answer once."""
        async for served in self._answers(request, context, every_exit=False):
            answer = _message(served)
        return answer

    async def PredictStream(self, request: pb.PredictRequest, context: _Context) -> AsyncIterator[pb.Answer]:  # noqa: N802  # as above
        """Answer at every exit."""
        async for served in self._answers(request, context, every_exit=True):
            yield _message(served)

    async def _answers(
        self, request: pb.PredictRequest, context: _Context, *, every_exit: bool
    ) -> AsyncIterator[Served]:
        """Yield answers until the one that has a reason to stop; end the call with a status where there is none."""
        arrived, left = time.monotonic(), context.time_remaining()
        deadline = math.inf if left is None else arrived + left
        loop = asyncio.get_running_loop()
        found: asyncio.Queue[Served | Exception] = asyncio.Queue()

        def deliver(item: Served | Exception) -> None:
            loop.call_soon_threadsafe(found.put_nowait, item)

        ticket: Ticket | None = None
        try:
            sample = await loop.run_in_executor(self._decoders, self._sample, request)
            decision, least_exit = self._decide(request)
            ticket = Ticket(
                sample=sample,
                decision=decision,
                least_exit=least_exit,
                every_exit=every_exit,
                arrived=arrived,
                deadline=deadline,
                deliver=deliver,
            )
            self._engine.submit(ticket)
            async for served in _until_stopped(found):
                waited = 1000.0 * (time.monotonic() - arrived) - served.answer.elapsed_ms
                self._engine.pace.note_delivery(waited)
                if served.answer.stopped is not None:
                    self._metrics.answered(served)
                yield served
        except EdgeFLError as error:
            code = _status(error)
            self._metrics.refused(code.name)
            await _end(context, code, str(error))
        except asyncio.CancelledError:  # by the client, or by gRPC when the deadline has passed
            code = grpc.StatusCode.DEADLINE_EXCEEDED if time.monotonic() >= deadline else grpc.StatusCode.CANCELLED
            self._metrics.refused(code.name)
            raise
        finally:
            if ticket is not None:
                ticket.cancelled = True

    def _sample(self, request: pb.PredictRequest) -> FloatArray:
        """Return what a request asks about, (1, channels, height, width)."""
        if request.WhichOneof("input") == "sample":
            return self._given(request.sample.values)
        if not request.image:
            raise BadInputError("the request has no image; send the bytes of an image file, or a normalised sample")
        image = decode_image(io.BytesIO(request.image), "the image", _MOST_PIXELS)
        return self._model.preprocess(image)

    def _given(self, values: bytes) -> FloatArray:
        facts = self._model.bundle.manifest.model
        shape = (1, facts.channels, facts.image_size, facts.image_size)
        if len(values) != 4 * math.prod(shape):
            raise SamplesError(
                f"the sample has {len(values)} bytes, expected {4 * math.prod(shape)}: float32 {shape[1:]}"
            )
        sample = np.frombuffer(values, "<f4").reshape(shape)
        # Whoever is answered together must not fail for one of them.
        if not np.isfinite(sample).all():
            raise SamplesError("the sample has NaN or infinite values; clean it")
        return sample

    def _decide(self, request: pb.PredictRequest) -> tuple[Decision, int]:
        """Return how deep a request may go, and the shallowest exit that may answer it."""
        rules = self._asked_rules(request)
        asked = Request(thresholds=self._engine.adapter.thresholds)
        if request.HasField("min_confidence"):
            if not 0.0 <= request.min_confidence <= 1.0:
                raise BadInputError(f"min_confidence is {request.min_confidence}, expected a number from 0 to 1")
            asked = Request(min_confidence=request.min_confidence)
        signals = self._source.read()
        decision = choose_exit(self._costs, signals, asked, rules, self._previous)
        # What one request can accept says nothing of the noise of signals.
        self._previous = choose_exit(self._costs, signals, Request(), self._rules, self._previous).exit_index
        return decision, rules.min_exit or 0

    def _asked_rules(self, request: pb.PredictRequest) -> Rules:
        """Return the owner's rules, made narrower by the request's."""
        least = request.min_exit if request.HasField("min_exit") else None
        most = request.max_exit if request.HasField("max_exit") else None
        asked = tuple(exit_index for exit_index in (least, most) if exit_index is not None)
        check_exits(asked, self._model.exits, f"bundle {self._model.bundle.folder.name}")
        if least is not None and most is not None and least > most:
            raise BadInputError(f"min_exit {least} is deeper than max_exit {most}")
        own = self._rules
        return msgspec.structs.replace(
            own,
            min_exit=max((e for e in (own.min_exit, least) if e is not None), default=None),
            max_exit=min((e for e in (own.max_exit, most) if e is not None), default=None),
        )


async def _end(context: _Context, code: grpc.StatusCode, text: str) -> None:
    """End a call with a status, unless nobody is there any more to be told."""
    try:
        await context.abort(code, text)
    except grpc.aio.InternalError as error:
        raise asyncio.CancelledError from error


async def _until_stopped(found: asyncio.Queue[Served | Exception]) -> AsyncIterator[Served]:
    while True:
        item = await found.get()
        if isinstance(item, Exception):
            raise item
        yield item
        if item.answer.stopped is not None:
            return


def _status(error: EdgeFLError) -> grpc.StatusCode:
    """Return how gRPC calls an error."""
    codes: dict[type[EdgeFLError], grpc.StatusCode] = {
        BadInputError: grpc.StatusCode.INVALID_ARGUMENT,
        LateError: grpc.StatusCode.DEADLINE_EXCEEDED,
        EndingError: grpc.StatusCode.UNAVAILABLE,
    }
    return next((code for kind, code in codes.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def _message(served: Served) -> pb.Answer:
    answer = served.answer
    return pb.Answer(
        exit=answer.exit_index,
        label=answer.label,
        confidence=answer.confidence,
        logits=served.logits.tolist(),
        elapsed_ms=answer.elapsed_ms,
        stop_reason=answer.stopped.rule if answer.stopped else "",
        stop_text=answer.stopped.text if answer.stopped else "",
        batch=served.batch,
        adapter_sha256=served.adapter_sha256,
    )
