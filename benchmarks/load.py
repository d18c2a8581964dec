"""Ask a service, in a process of its own: one after the other, several at once, or whenever Poisson's clock says.

Started by `benchmarks.serve` as `python -m benchmarks.load`; reads a `Load` a line on standard input and writes what
came of it, a list of `Outcome`, as a line on standard output, both JSON.
"""

from __future__ import annotations

import asyncio
import io
import sys
import time
from collections.abc import Sequence

import grpc
import msgspec
import numpy as np
from PIL import Image

from edgefl.serve import predict_pb2 as pb
from edgefl.serve.predict_pb2_grpc import AnytimeStub

__all__ = ["Load", "Outcome"]

_IMAGES = 16


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask for.

    Attributes:
        address: The service.
        image_size: Of the images that are sent, in pixels.
        count: Requests.
        at_once: Requests under way at any time, each as soon as one before it has ended; 0 for `per_second`.
        per_second: Mean rate of arrivals, whatever is still under way.
        seed: Of the arrivals.
        deadline_ms: Of each request; None for none.
        exit_index: The exit that has to answer; None for whichever the service chooses.
    """

    address: str
    image_size: int
    count: int
    at_once: int = 0
    per_second: float = 0.0
    seed: int = 0
    deadline_ms: float | None = None
    exit_index: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one request ended.

    Attributes:
        begun: Seconds since the load began.
        seconds: From request to answer or status.
        status: gRPC's name of it, `OK` for an answer.
        exit_index: Of the answer; -1 without one.
        batch: Requests answered together; 0 without an answer.
    """

    begun: float
    seconds: float
    status: str
    exit_index: int = -1
    batch: int = 0


async def run(load: Load) -> list[Outcome]:
    """Send all requests and wait for what comes of them."""
    requests = [_request(load, number) for number in range(_IMAGES)]
    async with grpc.aio.insecure_channel(load.address) as channel:
        stub = AnytimeStub(channel)
        await stub.Predict(requests[0])  # the connection is made
        ask = _Asking(stub, requests, load)
        return await (ask.several_at_once() if load.at_once else ask.as_they_arrive())


class _Asking:
    def __init__(self, stub: AnytimeStub, requests: Sequence[pb.PredictRequest], load: Load) -> None:
        self._stub, self._requests, self._load = stub, requests, load
        self._started = time.perf_counter()

    async def several_at_once(self) -> list[Outcome]:
        numbers = iter(range(self._load.count))

        async def one_by_one() -> list[Outcome]:
            return [await self._ask(number) for number in numbers]

        found = await asyncio.gather(*(one_by_one() for _ in range(self._load.at_once)))
        return [outcome for each in found for outcome in each]

    async def as_they_arrive(self) -> list[Outcome]:
        gaps = np.random.default_rng(self._load.seed).exponential(1.0 / self._load.per_second, self._load.count)
        asked = []
        for number, at in enumerate(gaps.cumsum()):
            await asyncio.sleep(max(0.0, at - (time.perf_counter() - self._started)))
            asked.append(asyncio.create_task(self._ask(number)))
        return list(await asyncio.gather(*asked))

    async def _ask(self, number: int) -> Outcome:
        begun = time.perf_counter()
        timeout = None if self._load.deadline_ms is None else self._load.deadline_ms / 1000.0
        try:
            answer: pb.Answer = await self._stub.Predict(self._requests[number % _IMAGES], timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return self._outcome(begun, error.code().name)
        return self._outcome(begun, "OK", answer)

    def _outcome(self, begun: float, status: str, answer: pb.Answer | None = None) -> Outcome:
        now = time.perf_counter()
        return Outcome(
            begun=begun - self._started,
            seconds=now - begun,
            status=status,
            exit_index=-1 if answer is None else answer.exit,
            batch=0 if answer is None else answer.batch,
        )


def _request(load: Load, number: int) -> pb.PredictRequest:
    """Return a request with a photograph of nothing: coarse noise, enlarged, as JPEG."""
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((load.image_size, load.image_size), Image.Resampling.BICUBIC).save(file, "jpeg")
    # No calibration, no confidence: how deep an answer is must not depend on the image.
    request = pb.PredictRequest(image=file.getvalue())
    if load.exit_index is not None:
        request.min_exit = request.max_exit = load.exit_index
    return request


if __name__ == "__main__":
    for line in sys.stdin:
        outcomes = asyncio.run(run(msgspec.json.decode(line, type=Load)))
        sys.stdout.write(msgspec.json.encode(outcomes).decode() + "\n")
        sys.stdout.flush()
