"""When an answer that deepens exit by exit has gone far enough; every stop says why.

`tests/golden/stopping.json` fixes the outcome for every language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgefl.policy.exit_policy import Decision, ExitCost, Reason, Request

__all__ = ["end_of_decision", "sure_enough", "why_stop"]


def why_stop(
    decision: Decision,
    costs: Sequence[ExitCost],
    request: Request,
    exit_index: int,
    confidence: float,
    elapsed_ms: float,
) -> Reason | None:
    """Say why no deeper exit should answer, or None to go on.

    Args:
        decision: What `choose_exit` decided.
        costs: Of the exits there are, exits rising; they are read where the request has a deadline.
        request: What who asks can accept.
        exit_index: The exit that has just answered.
        confidence: Its confidence, in [0, 1].
        elapsed_ms: Time since the request began.
    """
    ended = end_of_decision(decision, exit_index) or sure_enough(decision.thresholds, exit_index, confidence)
    if ended is not None:
        return ended
    if request.deadline_ms is None or exit_index < decision.least_exit:
        return None
    more, left = _time_to_next(costs, exit_index), request.deadline_ms - elapsed_ms
    if more is not None and more > left:
        text = f"the next exit takes {more:.3g} ms, and {max(left, 0.0):.3g} ms are left"
        return Reason(rule="deadline", exit_index=exit_index, text=text)
    return None


def end_of_decision(decision: Decision, exit_index: int) -> Reason | None:
    """Say why the exit that was decided on, or a deeper one, is the last; None at a shallower one."""
    if exit_index < decision.exit_index:
        return None
    nothing = Reason(rule="deepest", exit_index=exit_index, text=f"exit {exit_index} is the deepest there is")
    return decision.reasons[0] if decision.reasons else nothing


def sure_enough(thresholds: Mapping[int, float], exit_index: int, confidence: float) -> Reason | None:
    """Say that an exit is as sure as it takes to answer, None where it is not, or has no threshold."""
    threshold = thresholds.get(exit_index)
    if threshold is None or confidence < threshold:
        return None
    text = f"its confidence {confidence:.3f} is at least {threshold:.3f}"
    return Reason(rule="confidence", exit_index=exit_index, text=text)


def _time_to_next(costs: Sequence[ExitCost], exit_index: int) -> float | None:
    """Return how much longer the next exit takes than one, in ms; None where it has not been measured."""
    place = next(place for place, cost in enumerate(costs) if cost.exit_index == exit_index)
    one, other = costs[place].milliseconds, costs[place + 1].milliseconds
    return None if one is None or other is None else other - one
