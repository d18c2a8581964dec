"""At the last moment before the deadline, the answer that was put by is sent (edgefl/serve/service.py)."""

from __future__ import annotations

import asyncio
from queue import Queue
from typing import Any

import grpc
import numpy as np
import pytest

from edgefl.policy import Decision, Rules
from edgefl.policy.batching import BatchCosts
from edgefl.runtime.model import Model
from edgefl.serve import predict_pb2 as pb
from edgefl.serve.engine import Engine
from edgefl.serve.metrics import Metrics
from edgefl.serve.predict_pb2_grpc import AnytimeStub, add_AnytimeServicer_to_server
from edgefl.serve.requests import Requests
from edgefl.serve.service import AnytimeService
from edgefl.signals import TraceSource
from tests.golden_bundle import random_samples
from tests.serve.engine_bench import Counting, running_engine, ticket

SECONDS = 3.0
# Answers take 0 or 0.7 s on their way out, 0.35 s on average, which is the deviation, too: of 3 s, 0.35 + 4 x 0.35 s
# are kept.  In what is left the next exit fits, but only if nothing comes in between.  0.7 s before the end it is late.
UNSTEADY_MS = (0.0, 700.0)
TIGHT = BatchCosts(sizes=(1,), reached=((100.0, 900.0, 1700.0),), answer=(0.0,))


async def answers_of(engine: Engine, model: Model, *, stream: bool) -> list[pb.Answer]:
    metrics = Metrics(queue_length=lambda: 0, pace=lambda: 1.0, version=lambda: 0)
    requests = Requests(model, TraceSource([], clock=lambda: 0.0), Rules(), most_pixels=1)
    service = AnytimeService(requests, engine, metrics, most_requests=1)
    server = grpc.aio.server()
    add_AnytimeServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = pb.PredictRequest(sample=pb.Sample(values=random_samples(1)[0].astype("<f4").tobytes()))
        stub: Any = AnytimeStub(channel)
        if stream:
            answers = [answer async for answer in stub.PredictStream(request, timeout=SECONDS)]
        else:
            answers = [await stub.Predict(request, timeout=SECONDS)]
    await server.stop(0)
    service.close()
    return answers


def calls_to_exit_0(engine: Engine, boundary: Counting) -> int:
    found: Queue[object] = Queue()
    before = boundary.calls
    engine.submit(ticket(found, decision=Decision(exit_index=0, thresholds={}, reasons=())))
    found.get(timeout=60)
    return boundary.calls - before


@pytest.mark.parametrize("stream", [False, True])
def test_a_step_that_takes_longer_than_all_the_time_that_is_left_costs_no_answer(*, stream: bool) -> None:
    with running_engine(TIGHT) as (engine, model, boundary):
        calls = calls_to_exit_0(engine, boundary)
        for _ in range(50):
            for milliseconds in UNSTEADY_MS:
                engine.pace.note_delivery(milliseconds)
        boundary.held_at = boundary.calls + calls + 1
        try:
            answers = asyncio.run(answers_of(engine, model, stream=stream))
        finally:
            boundary.free.set()

    # A stream has had it before, as one that a deeper exit follows.
    assert [(answer.exit, answer.stop_reason) for answer in answers] == [(0, "")] * stream + [(0, "deadline")]
    # Sent when 0.7 s and a few milliseconds were left.
    assert answers[-1].elapsed_ms > 1000.0
    expected = next(model.infer(random_samples(1)[0], 0))
    np.testing.assert_allclose(answers[-1].logits, expected.logits[0], rtol=1e-5)
