"""The server's time on a device whose clock may be wrong: a Raspberry Pi without network starts in the past."""

from __future__ import annotations

import email.utils
import logging
import time

__all__ = ["ServerClock"]

logger = logging.getLogger(__name__)

# HTTP dates have whole seconds.  The server accepts signatures from 305 s behind to 5 s ahead of its own clock.
_TOLERANCE_SECONDS = 2.0


class ServerClock:
    """This device's clock, corrected by the `Date` headers of the server's answers.

    Attributes:
        skew_seconds: What to add to this device's clock.
    """

    def __init__(self) -> None:
        self.skew_seconds = 0.0

    def now(self) -> float:
        """Return the server's time in seconds since 1970."""
        return time.time() + self.skew_seconds

    def learn(self, date: str) -> None:
        """Take over the time of an answer if it differs by more than 2 s.

        Args:
            date: The `Date` header of an answer that has just arrived; anything else is ignored.
        """
        try:
            # Cut to whole seconds, it is half a second behind on average.
            server_time = email.utils.parsedate_to_datetime(date).timestamp() + 0.5
        except (ValueError, OverflowError):
            return
        if abs(server_time - self.now()) > _TOLERANCE_SECONDS:
            self.skew_seconds = server_time - time.time()
            logger.warning("the server's clock is %+.0f s off this device's; corrected", self.skew_seconds)
