"""The rule: the deepest exit a budget affords, and of its memory knobs the fastest that fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["FASTEST_FIRST", "Budget", "Decision", "Limit", "Memory", "Step", "decide"]

Memory = Literal["fast", "balanced", "lean"]
Limit = Literal["memory", "upload", "time"]

FASTEST_FIRST: tuple[Memory, ...] = ("fast", "balanced", "lean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one local step at one exit takes, by one memory knob.

    Attributes:
        exit_index: The exit.
        memory: The knob.
        planned_bytes: Most bytes of tensors alive at once, mapped weights not among them.
        mapped_bytes: Bytes of the frozen weights it maps; the kernel may drop them.
        upload_bytes: Bytes of values that a round sends back.
        seconds: Its time.
    """

    exit_index: int
    memory: Memory
    planned_bytes: int
    mapped_bytes: int
    upload_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What training may take.

    Attributes:
        memory_bytes: Bytes of memory.
        baseline_bytes: What of that is gone before there is a tensor.
        upload_bytes: Bytes that a round may send back.
        step_seconds: Time of one local step.
    """

    memory_bytes: int
    baseline_bytes: int = 0
    upload_bytes: float = math.inf
    step_seconds: float = math.inf

    def exceeded(self, step: Step) -> tuple[Limit, ...]:
        """Return what of this budget a step would exceed, nothing if it fits."""
        fits: dict[Limit, bool] = {
            "memory": step.planned_bytes + self.baseline_bytes <= self.memory_bytes,
            "upload": step.upload_bytes <= self.upload_bytes,
            "time": step.seconds <= self.step_seconds,
        }
        return tuple(limit for limit, fitting in fits.items() if not fitting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a budget affords.

    Attributes:
        step: The step to train; where none is affordable, the one that comes nearest.
        affordable: Whether the budget affords it.
        limits: What keeps the budget from the next deeper exit, nothing at the deepest one; where no step is
            affordable, what keeps it from `step`.
    """

    step: Step
    affordable: bool
    limits: tuple[Limit, ...]


def decide(steps: Sequence[Step], budget: Budget) -> Decision:
    """Return the deepest exit of which some knob fits, with the fastest such knob.

    Args:
        steps: All there are, one or more; each exit and knob once.
        budget: What they may take.
    """
    affordable = [step for step in steps if not budget.exceeded(step)]
    if not affordable:
        # With one limit lacking, the least memory is also the smallest budget that would do.
        nearest = min(steps, key=lambda step: (len(budget.exceeded(step)), step.planned_bytes))
        return Decision(step=nearest, affordable=False, limits=budget.exceeded(nearest))
    chosen = min(affordable, key=lambda step: (-step.exit_index, FASTEST_FIRST.index(step.memory)))
    deeper = [step for step in steps if step.exit_index > chosen.exit_index]
    following = min(deeper, key=lambda step: (step.exit_index, step.planned_bytes), default=None)
    limits = budget.exceeded(following) if following else ()
    return Decision(step=chosen, affordable=True, limits=limits)
