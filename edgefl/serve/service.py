"""The gRPC methods: from messages to tickets and from answers to messages."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc

from edgefl.errors import BadInputError, EdgeFLError, RefusedError
from edgefl.serve import predict_pb2 as pb
from edgefl.serve.engine import EndingError, Engine, LateError
from edgefl.serve.metrics import Metrics
from edgefl.serve.predict_pb2_grpc import AnytimeServicer
from edgefl.serve.requests import Requests
from edgefl.serve.ticket import Served, Ticket

__all__ = ["AnytimeService"]

logger = logging.getLogger(__name__)

_DECODERS = 2

if TYPE_CHECKING:  # gRPC's classes have parameters only there
    _Context = grpc.aio.ServicerContext[Any, Any]


class BusyError(RefusedError):
    """More is asked at once than the service takes."""


class AnytimeService(AnytimeServicer):
    """Answers requests with an engine.

    Args:
        requests: Says what is asked.
        engine: Answers.
        metrics: Count.
        most_requests: At once; calls that are none of these methods, such as health checks, do not count.
    """

    def __init__(self, requests: Requests, engine: Engine, metrics: Metrics, most_requests: int) -> None:
        self._requests, self._engine, self._metrics = requests, engine, metrics
        self._under_way, self._most_requests = 0, most_requests
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")

    def close(self) -> None:
        """Prepare no more samples."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

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
        deadline = math.inf if left is None else arrived + left - _rounded_up_seconds(left)
        self._under_way += 1
        try:
            async with aclosing(self._served(request, arrived, deadline, every_exit=every_exit)) as answers:
                async for served in answers:
                    yield served
        except Exception as error:  # noqa: BLE001  # whatever it is, the client is told and the metrics count it
            code, text = _status(error)
            self._metrics.refused(code.name)
            await _end(context, code, text)
        except asyncio.CancelledError:  # by the client, or by gRPC when the deadline has passed
            code = grpc.StatusCode.DEADLINE_EXCEEDED if time.monotonic() >= deadline else grpc.StatusCode.CANCELLED
            self._metrics.refused(code.name)
            raise
        finally:
            self._under_way -= 1

    async def _served(
        self, request: pb.PredictRequest, arrived: float, deadline: float, *, every_exit: bool
    ) -> AsyncGenerator[Served, None]:
        self._check_busy()
        loop = asyncio.get_running_loop()
        found: asyncio.Queue[Served | Exception] = asyncio.Queue()

        def deliver(item: Served | Exception) -> None:
            loop.call_soon_threadsafe(found.put_nowait, item)

        asked = self._requests.asked(request)
        ticket = Ticket(
            sample=await loop.run_in_executor(self._decoders, self._requests.sample, request, deadline),
            decision=asked.decision,
            least_exit=asked.least_exit,
            min_confidence=asked.min_confidence,
            every_exit=every_exit,
            arrived=arrived,
            deadline=deadline,
            deliver=deliver,
        )
        self._engine.submit(ticket)
        try:
            is_first = True
            async for served in self._until_stopped(found, arrived, deadline):
                # Later ones wait for a client that reads slowly, which says nothing of this device.
                if is_first:
                    waited = 1000.0 * (time.monotonic() - arrived) - served.answer.elapsed_ms
                    self._engine.pace.note_delivery(waited)
                is_first = False
                if served.answer.stopped is not None:
                    self._metrics.answered(served)
                yield served
        finally:
            ticket.cancelled = True

    async def _until_stopped(
        self, found: asyncio.Queue[Served | Exception], arrived: float, deadline: float
    ) -> AsyncIterator[Served]:
        """Yield what the engine hands out; at the last moment before the deadline, the newest of it is the answer."""
        newest = _answer(await found.get())
        yield newest
        while newest.answer.stopped is None:
            last_moment = None if deadline == math.inf else deadline - self._engine.pace.send_ms / 1000.0
            try:
                async with asyncio.timeout_at(last_moment):
                    newest = _answer(await found.get())
            except TimeoutError:
                newest = newest.as_last(1000.0 * (time.monotonic() - arrived))
            yield newest

    def _check_busy(self) -> None:
        if self._under_way > self._most_requests:
            raise BusyError(f"{self._most_requests} requests are under way, which is the limit; ask again later")


async def _end(context: _Context, code: grpc.StatusCode, text: str) -> None:
    """End a call with a status, unless nobody is there any more to be told."""
    try:
        await context.abort(code, text)
    except grpc.aio.InternalError as error:
        raise asyncio.CancelledError from error


def _rounded_up_seconds(left: float) -> float:
    """Return by how much gRPC may have rounded up the time that a client allows.

    Most clients send whole milliseconds below a second, tens of milliseconds below ten seconds, and so on.
    """
    return 0.01 * 10.0 ** math.floor(math.log10(max(left, 0.1)))


def _answer(item: Served | Exception) -> Served:
    if isinstance(item, Exception):
        raise item
    return item


def _status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Return how gRPC calls an error, and what the client is told."""
    codes: dict[type[EdgeFLError], grpc.StatusCode] = {
        BadInputError: grpc.StatusCode.INVALID_ARGUMENT,
        LateError: grpc.StatusCode.DEADLINE_EXCEEDED,
        EndingError: grpc.StatusCode.UNAVAILABLE,
        BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
    for kind, code in codes.items():
        if isinstance(error, kind):
            return code, str(error)
    logger.error("a request failed", exc_info=error)
    return grpc.StatusCode.INTERNAL, "the service has failed; its log says how"


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
