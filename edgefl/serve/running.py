"""A batch on its way through the blocks: at each exit it is decided who is answered, and whether to go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from edgefl.policy import Reason, Request
from edgefl.policy.batching import BatchCosts, best_stop
from edgefl.policy.exit_policy import thresholds_of
from edgefl.policy.stopping import end_of_decision, sure_enough
from edgefl.predict.calibration import confidence
from edgefl.predict.predictor import ExitAnswer
from edgefl.runtime.prediction import Prediction
from edgefl.serve.adapter_in_use import AdapterInUse
from edgefl.serve.pace import Pace
from edgefl.serve.ticket import Served, Ticket

__all__ = ["Running"]

_NEVER = 1.0
"""No confidence reaches it."""

_RISK = 2.0
"""A step may take so many times what is expected: where that would be too late, an answer is put by before it."""


class Running:
    """One batch.

    Attributes:
        tickets: Those that are not answered yet, by their place in the batch.
    """

    def __init__(
        self,
        tickets: Sequence[Ticket],
        exits: Sequence[int],
        costs: BatchCosts,
        pace: Pace,
        adapter: AdapterInUse,
        waiting: Callable[[], Sequence[float]],
    ) -> None:
        """Begin.

        Args:
            tickets: The batch.
            exits: The bundle's exits, rising.
            costs: Of batches.
            pace: How fast the device is at present.
            adapter: The adapter that answers.
            waiting: Asked for the deadlines of requests that wait, rising.
        """
        self.tickets = dict(enumerate(tickets))
        self._exits, self._costs, self._adapter, self._waiting = exits, costs, adapter, waiting
        # Of the adapter that answers, which may be another one than when the request came.
        self._thresholds = {row: self._thresholds_of(ticket) for row, ticket in self.tickets.items()}
        self._size = len(tickets)
        self._pace = pace
        self._times = costs.times(self._size)
        self._place, self._since, self._answered = -1, time.monotonic(), False
        self._ending: dict[int, Reason] = {}
        self._put_by: set[int] = set()
        self._has_answer: set[int] = set()

    def is_abandoned(self) -> bool:
        """Say whether nobody wants an answer any more."""
        return all(ticket.cancelled for ticket in self.tickets.values())

    def wanted(self, exit_index: int) -> bool:
        """Decide at an exit that is reached who is answered there, and return whether anybody may be."""
        now = time.monotonic()
        self._note(now)
        self._decide(now)
        return bool(self._ending or self._put_by) or any(
            _shows(ticket, exit_index) or self._thresholds[row].get(exit_index, _NEVER) < _NEVER
            for row, ticket in self.tickets.items()
        )

    def deliver(self, prediction: Prediction) -> None:
        """Hand out what an exit answers, and let those go whose last answer it is."""
        self._answered = True
        sure = confidence(prediction.logits, self._adapter.temperatures[prediction.exit_index])
        now = time.monotonic()
        for row, ticket in list(self.tickets.items()):
            certain = sure_enough(self._thresholds[row], prediction.exit_index, float(sure[row]))
            stopped = self._ending.get(row) or certain
            if stopped is not None or row in self._put_by or _shows(ticket, prediction.exit_index):
                answer = ExitAnswer(
                    exit_index=prediction.exit_index,
                    label=int(prediction.logits[row].argmax()),
                    confidence=float(sure[row]),
                    elapsed_ms=1000.0 * (now - ticket.arrived),
                    stopped=stopped,
                )
                logits = np.array(prediction.logits[row])
                self._has_answer.add(row)
                ticket.deliver(
                    Served(answer=answer, logits=logits, batch=self._size, adapter_sha256=self._adapter.sha256)
                )
            if stopped is not None:
                del self.tickets[row]

    def fail(self, error: Exception) -> None:
        """Give all that are left an error."""
        for ticket in self.tickets.values():
            ticket.deliver(error)
        self.tickets.clear()

    def _thresholds_of(self, ticket: Ticket) -> dict[int, float]:
        exits = [e for e in self._exits if ticket.least_exit <= e < ticket.decision.exit_index]
        asked = Request(min_confidence=ticket.min_confidence, thresholds=self._adapter.thresholds)
        return thresholds_of(exits, asked)

    def _note(self, now: float) -> None:
        """Go to the next exit, and learn from how long it took."""
        before = self._times[self._place] if self._place >= 0 else 0.0
        self._place += 1
        expected = self._times[self._place] - before
        expected += self._costs.answer_time(self._size) if self._answered else 0.0
        self._pace.note(1000.0 * (now - self._since), expected)
        self._since, self._answered = now, False

    def _decide(self, now: float) -> None:
        """Work out which requests end at this exit and why, and for which ones its answer is put by."""
        active = {row: ticket for row, ticket in self.tickets.items() if not ticket.cancelled}
        self._ending, self._put_by = {}, set()
        if not active:
            return
        left = {row: self._pace.left_ms(ticket.deadline, now) for row, ticket in active.items()}
        running = [(left[row], self._exits.index(ticket.decision.exit_index)) for row, ticket in active.items()]
        waiting = [self._pace.left_ms(deadline, now) for deadline in self._waiting()]
        stop = best_stop(self._costs, self._size, self._place, running, waiting)
        for row, ticket in active.items():
            if self._exits[self._place] < ticket.least_exit:
                continue
            if (ended := self._ending_of(row, left[row], stop)) is not None:
                self._ending[row] = ended
            elif row not in self._has_answer and self._next_takes(row, _RISK * self._pace.strain) > left[row]:
                self._put_by.add(row)

    def _ending_of(self, row: int, left: float, stop: int) -> Reason | None:
        here = self._exits[self._place]
        if (ended := end_of_decision(self.tickets[row].decision, here)) is not None:
            return ended
        if self._next_takes(row) > left:
            return Reason(rule="deadline", exit_index=here, text="the next exit would be late")
        if self._place >= stop:
            return Reason(rule="load", exit_index=here, text="others wait for their answers")
        return None

    def _next_takes(self, row: int, longer: float = 1.0) -> float:
        """Return what the next exit's answer takes, and the one that is put by here before if there is none yet."""
        step = self._times[self._place + 1] - self._times[self._place]
        answers = 1.0 if row in self._has_answer else 2.0
        return longer * step + answers * self._costs.answer_time(self._size)


def _shows(ticket: Ticket, exit_index: int) -> bool:
    """Whether a request is told what this exit answers, although deeper ones follow."""
    return ticket.every_exit and exit_index >= ticket.least_exit
