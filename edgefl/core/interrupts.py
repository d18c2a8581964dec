"""What ends a command from outside."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interrupted_by_sigterm"]


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """End on SIGTERM as on ctrl-C, so that nothing half done is left on the way out; in the main thread alone."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
