"""How often each of many callers may come: a bucket of tokens for each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

__all__ = ["RateLimit"]

_MOST_CALLERS = 10_000


class RateLimit:
    """Admits calls at a mean rate, and some more at once.

    Args:
        per_second: Mean rate.
        at_once: Calls of one caller who has not come for long.
    """

    def __init__(self, per_second: float, at_once: int) -> None:
        self._per_second, self._at_once = per_second, at_once
        # Of each caller how many calls it has left and when that was counted; who came least recently first.
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def admits(self, caller: Hashable, now: float) -> bool:
        """Count a call.

        Args:
            caller: Who comes.
            now: Seconds of a clock that never goes back.

        Returns:
            Whether it is one of those admitted.
        """
        left, since = self._left.pop(caller, (float(self._at_once), now))
        left = min(left + (now - since) * self._per_second, float(self._at_once))
        admitted = left >= 1.0
        self._left[caller] = (left - 1.0 if admitted else left, now)
        if len(self._left) > _MOST_CALLERS:
            self._left.popitem(last=False)
        return admitted
