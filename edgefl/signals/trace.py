"""Signals from a recording: for tests, and to replay what a device has lived through."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgefl.core.signals import Signals
from edgefl.errors import BadInputError, StorageError

__all__ = ["TracePoint", "TraceSource", "read_trace"]


class TracePoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was read at a time.

    Attributes:
        seconds: Since the recording began.
        signals: The reading.
    """

    seconds: float
    signals: Signals


class TraceSource:
    """Answers with what a recording had at a time; before its beginning nothing is known.

    Args:
        points: The recording, times rising.
        clock: The time in seconds since the recording began.
    """

    def __init__(self, points: list[TracePoint], clock: Callable[[], float]) -> None:
        self._points, self._clock = points, clock

    def read(self) -> Signals:
        """Return the last reading that is not after the clock's time."""
        place = bisect_right(self._points, self._clock(), key=lambda point: point.seconds)
        return self._points[place - 1].signals if place else Signals()


def read_trace(path: Path) -> list[TracePoint]:
    """Read a recording: one point a line, in JSON, times rising.

    Raises:
        BadInputError: If a line is no point, or goes back in time.
        StorageError: If the file cannot be read.
    """
    if path.exists() and not path.is_file():
        raise BadInputError(f"{path} is no file; name a recording")  # a pipe would be waited for
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    points: list[TracePoint] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            point = msgspec.json.decode(line, type=TracePoint)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInputError(
                f'{path}, line {number}: {error}; expected {{"seconds": 0.0, "signals": {{"charge": 0.5, ...}}}}'
            ) from error
        if points and point.seconds < points[-1].seconds:
            raise BadInputError(f"{path}, line {number}: {point.seconds} s comes after {points[-1].seconds} s; sort it")
        points.append(point)
    return points
