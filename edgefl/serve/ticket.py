"""One request inside the service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgefl.policy import Decision
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
        deliver: Takes each answer, the last of which says why it stopped; or one error.  Called in the engine's thread.
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
