"""How much slower than measured this device is at present: other processes, heat, an empty battery."""

from __future__ import annotations

__all__ = ["Pace"]

_NEWEST_SHARE = 0.1
_FASTEST, _SLOWEST = 0.5, 20.0


class Pace:
    """Follows the ratio of what things take to what they were expected to take.

    Attributes:
        ratio: The ratio, 1 as measured, more where everything takes longer.
    """

    def __init__(self, reserve_ms: float) -> None:
        """Begin at 1.

        Args:
            reserve_ms: What is kept of each request's time for its answer's way back.
        """
        self.ratio = 1.0
        self._reserve_ms = reserve_ms

    def note(self, took_ms: float, expected_ms: float) -> None:
        """Learn from one measurement."""
        newest = min(max(took_ms / max(expected_ms, 1e-6), _FASTEST), _SLOWEST)
        self.ratio += _NEWEST_SHARE * (newest - self.ratio)

    def left_ms(self, deadline: float, now: float) -> float:
        """Return how many measured milliseconds fit into the time until a deadline, both in seconds of one clock."""
        return (1000.0 * (deadline - now) - self._reserve_ms) / self.ratio
