"""How fast this device is at present: other processes, heat and an empty battery make it slower."""

from __future__ import annotations

__all__ = ["Pace"]

_NEWEST_SHARE = 0.1
_FASTEST, _SLOWEST = 0.5, 20.0
_NETWORK_MS = 3.0
"""Both ways; two left one answer in a hundred late between two processes of a busy device with two cores."""

_DEVIATIONS = 4.0
"""As TCP waits for an answer (RFC 6298): the smoothed mean and four smoothed deviations are seldom exceeded."""


class Pace:
    """Follows the ratio of what things take to what they were expected to take, and what answers take on their way out.

    Attributes:
        ratio: The ratio, 1 as measured, more where everything takes longer.
        newest: The same of the newest step alone.
    """

    def __init__(self) -> None:
        self.ratio = self.newest = 1.0
        self._delivery, self._deviation = 1.0, 0.5

    @property
    def strain(self) -> float:
        """How much longer than `ratio` says the next step may well take, at least 1: as long as the newest one."""
        return max(self.newest / self.ratio, 1.0)

    @property
    def send_ms(self) -> float:
        """What is left of a request's time when an answer that was put by is sent, in ms.

        Later than an answer that the engine had in time would come, as a rule.
        """
        return 0.5 * _DEVIATIONS * self._deviation + _NETWORK_MS

    @property
    def reserve_ms(self) -> float:
        """What is kept of each request's time for its answer's way from the engine to the client, in ms."""
        return self._delivery + _DEVIATIONS * self._deviation + _NETWORK_MS

    def note(self, took_ms: float, expected_ms: float) -> None:
        """Learn from a step of the engine."""
        self.newest = min(max(took_ms / max(expected_ms, 1e-6), _FASTEST), _SLOWEST)
        self.ratio += _NEWEST_SHARE * (self.newest - self.ratio)

    def note_delivery(self, took_ms: float) -> None:
        """Learn how long an answer waited for the service to take it from the engine."""
        self._deviation += _NEWEST_SHARE * (abs(took_ms - self._delivery) - self._deviation)
        self._delivery += _NEWEST_SHARE * (took_ms - self._delivery)

    def left_ms(self, deadline: float, now: float) -> float:
        """Return how many measured milliseconds fit into the time until a deadline, both in seconds of one clock."""
        return (1000.0 * (deadline - now) - self.reserve_ms) / self.ratio
