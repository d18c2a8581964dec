"""Signals read beside the work: asking a system's services takes longer than many an answer."""

from __future__ import annotations

import threading
from typing import Self

from edgefl.core.signals import Signals
from edgefl.signals.source import Source

__all__ = ["WatchedSource"]


class WatchedSource:
    """Reads another source when its block begins and then every few seconds in a thread; asking it takes no time.

    Args:
        source: Read in one thread at a time.
        seconds: Between two readings.
    """

    def __init__(self, source: Source, seconds: float = 5.0) -> None:
        self._source, self._seconds = source, seconds
        self._latest = Signals()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)

    def __enter__(self) -> Self:
        self._latest = self._source.read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def read(self) -> Signals:
        """Return the latest reading."""
        return self._latest

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds):
            self._latest = self._source.read()
