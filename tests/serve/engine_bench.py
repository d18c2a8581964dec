"""An engine on the golden bundle, with tickets whose answers are collected."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Queue

from edgefl.bundle import Bundle
from edgefl.policy import Decision, Reason
from edgefl.policy.batching import BatchCosts
from edgefl.runtime.model import Model
from edgefl.serve.adapter_in_use import AdapterInUse
from edgefl.serve.engine import CallBoundary, Engine
from edgefl.serve.ticket import Served, Ticket
from tests.golden_bundle import GOLDEN, random_samples

# So cheap that no test depends on how fast this machine is.
CHEAP = BatchCosts(sizes=(1, 4), reached=((0.1, 0.2, 0.3), (0.1, 0.2, 0.3)), answer=(0.1, 0.1))
TO_THE_END = Decision(exit_index=2, thresholds={}, reasons=())
TO_EXIT_1 = Decision(exit_index=1, thresholds={}, reasons=(Reason(rule="battery", exit_index=1, text="low"),))


@dataclass
class Counting(CallBoundary):
    """A call boundary that counts, and does what a test wants first."""

    calls: int = 0
    first: list[Callable[[], None]] = field(default_factory=list)
    held_at: int | None = None
    free: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        CallBoundary.__init__(self)

    def __call__(self) -> None:
        """Count, do what is to be done, and ask."""
        self.calls += 1
        while self.first:
            self.first.pop()()
        if self.calls == self.held_at:
            assert self.free.wait(60)
        super().__call__()


@contextmanager
def running_engine(costs: BatchCosts = CHEAP) -> Iterator[tuple[Engine, Model, Counting]]:
    boundary, bundle = Counting(), Bundle(GOLDEN)
    model = Model(bundle, bundle.adapter(), between_calls=boundary)
    engine = Engine(model, boundary, costs, AdapterInUse.of(bundle, bundle.adapter()))
    try:
        yield engine, model, boundary
    finally:
        engine.close()


def ticket(
    found: Queue[Served | Exception],
    *,
    seed: int = 0,
    decision: Decision = TO_THE_END,
    every_exit: bool = False,
    least_exit: int = 0,
    min_confidence: float | None = None,
    seconds: float = math.inf,
) -> Ticket:
    now = time.monotonic()
    return Ticket(
        sample=random_samples(1, seed)[0], decision=decision, least_exit=least_exit, min_confidence=min_confidence,
        every_exit=every_exit, arrived=now, deadline=now + seconds, deliver=found.put,
    )  # fmt: skip
