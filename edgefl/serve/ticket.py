"""One request inside the service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgefl.policy import Decision, Reason
from edgefl.predict.predictor import ExitAnswer
from edgefl.runtime.weights import FloatArray

__all__ = ["Served", "Ticket"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An answer and where it comes from.

    Attributes:
        answer: What the exit answers.
        logits: (C,).
        batch: Requests answered together.
        adapter_sha256: Digest of the adapter.
    """

    answer: ExitAnswer
    logits: FloatArray
    batch: int
    adapter_sha256: str

    def as_last(self, elapsed_ms: float) -> Served:
        """Return it as the request's answer, so long after it arrived, since a deeper exit's did not come in time."""
        reason = Reason(rule="deadline", exit_index=self.answer.exit_index, text="the next exit was not ready in time")
        return replace(self, answer=replace(self.answer, elapsed_ms=elapsed_ms, stopped=reason))


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """A request that waits or is being answered.

    Attributes:
        sample: (1, channels, height, width), normalised.
        decision: How deep signals and rules let it go.
        least_exit: It is not answered at a shallower one, whatever the deadline.
        min_confidence: Confidence at which a shallower exit will do; None for what is calibrated.
        every_exit: Whether it wants an answer at every exit.
        arrived: When, by `time.monotonic`.
        deadline: When an answer is of no use any more, by the same clock; infinite where there is none.
        deliver: Takes answers, of which the last says why it stopped, or one error; called in the engine's thread.  An
            answer that does not say why was asked for, or is put by for the case that the next one is late.
        cancelled: Whether nobody wants an answer any more.
    """

    sample: FloatArray
    decision: Decision
    least_exit: int
    min_confidence: float | None
    every_exit: bool
    arrived: float
    deadline: float
    deliver: Callable[[Served | Exception], None]
    cancelled: bool = False
