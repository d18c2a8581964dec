"""The one thread that computes: takes requests that wait together, and answers them exit by exit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from edgefl.errors import EdgeFLError
from edgefl.policy.batching import BatchCosts, batch_size
from edgefl.runtime.model import Model
from edgefl.serve.adapter_in_use import AdapterInUse
from edgefl.serve.pace import Pace
from edgefl.serve.priority import give_way
from edgefl.serve.running import Running
from edgefl.serve.ticket import Ticket

__all__ = ["CallBoundary", "EndingError", "Engine", "LateError"]


class LateError(EdgeFLError):
    """Not even the shallowest exit can answer in the time that is left."""


class EndingError(EdgeFLError):
    """The service ends before this request had its turn."""


class _AbandonedError(Exception):
    """Nobody wants an answer any more."""


class CallBoundary:
    """Given to a model as `between_calls`; asks only in threads that watch."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __call__(self) -> None:
        """Ask, where this thread watches."""
        check = getattr(self._local, "check", None)
        if check is not None:
            check()

    def watch(self, check: Callable[[], None] | None) -> None:
        """Call a function at each call boundary of this thread from now on; None for nothing."""
        self._local.check = check


class Engine:
    """Answers tickets in a thread of its own.

    Attributes:
        pace: How fast this device is at present.
    """

    def __init__(self, model: Model, boundary: CallBoundary, costs: BatchCosts, adapter: AdapterInUse) -> None:
        """Prepare.

        Args:
            model: The model; nobody else may change its adapter.
            boundary: What the model calls between its calls.
            costs: Of its batches.
            adapter: The adapter that the model uses.
        """
        self.pace = Pace()
        self._model, self._boundary, self._costs, self._adapter = model, boundary, costs, adapter
        self._waiting: list[Ticket] = []
        self._changed = threading.Condition()
        self._next_adapter: AdapterInUse | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def adapter(self) -> AdapterInUse:
        """The adapter that the next batch is answered with."""
        return self._next_adapter or self._adapter

    @property
    def queue_length(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def submit(self, ticket: Ticket) -> None:
        """Let a request wait for its turn."""
        with self._changed:
            self._waiting.append(ticket)
            self._changed.notify()

    def use_adapter(self, adapter: AdapterInUse) -> None:
        """Answer with another adapter from the next batch on; the running one ends with the one it began with."""
        with self._changed:
            self._next_adapter = adapter
            self._changed.notify()

    def close(self) -> None:
        """End after the batch that is running; whoever still waits is told."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        give_way()
        while (tickets := self._next_batch()) is not None:
            if tickets:
                self._answer(tickets)

    def _next_batch(self) -> list[Ticket] | None:
        """Wait for requests and take those to be answered together; None at the end."""
        with self._changed:
            while not self._waiting and not self._stopping and self._next_adapter is None:
                self._changed.wait()
            if self._next_adapter is not None:
                self._adapter, self._next_adapter = self._next_adapter, None
                self._model.use_adapter(self._adapter.tensors)
            if self._stopping:
                for ticket in self._waiting:
                    ticket.deliver(EndingError("the service is ending; ask again, or another one"))
                return None
            return self._taken(time.monotonic())

    def _taken(self, now: float) -> list[Ticket]:
        possible = sorted((t for t in self._waiting if not t.cancelled), key=lambda ticket: ticket.deadline)
        first = self._costs.times(1)[0] + self._costs.answer_time(1)
        # Nothing is kept back here: whoever can be answered at all is.
        late = [t for t in possible if 1000.0 * (t.deadline - now) < first]
        for ticket in late:
            ticket.deliver(LateError("no exit can answer in the time that is left; allow a longer deadline"))
        possible = possible[len(late) :]
        size = batch_size(self._costs, [self.pace.left_ms(t.deadline, now) for t in possible]) if possible else 0
        self._waiting = possible[size:]
        return possible[:size]

    def _answer(self, tickets: Sequence[Ticket]) -> None:
        running = Running(tickets, self._model.exits, self._costs, self.pace, self._adapter, self._deadlines)

        def check() -> None:
            if running.is_abandoned():
                raise _AbandonedError

        self._boundary.watch(check)
        try:
            samples = np.concatenate([ticket.sample for ticket in tickets])
            for prediction in self._model.infer(samples, wanted=running.wanted):
                running.deliver(prediction)
                if not running.tickets:
                    break
        except _AbandonedError:
            pass
        except Exception as error:  # noqa: BLE001  # whatever it is, those who wait are told and the next ones answered
            running.fail(error)
        finally:
            self._boundary.watch(None)

    def _deadlines(self) -> list[float]:
        with self._changed:
            return sorted(ticket.deadline for ticket in self._waiting if not ticket.cancelled)
