"""What options of commands that answer mean: rules, request, signals."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from edgefl.core.exits import check_exits
from edgefl.policy import Request, Rules
from edgefl.predict.calibration import Calibration
from edgefl.runtime.model import Model
from edgefl.signals import DeviceSource, Signals, Source, TraceSource, WatchedSource, read_trace

__all__ = ["opened_signals", "request_of", "rules_of"]


class _NoSignals:
    """A source that knows nothing."""

    def read(self) -> Signals:
        return Signals()


def request_of(options: Mapping[str, Any], calibration: Calibration | None) -> Request:
    """Return what --deadline-ms, --energy-mj and --min-confidence ask for, and calibrated thresholds."""
    confidence, auto = options["min_confidence"], options["exit_index"] == "auto"
    return Request(
        deadline_ms=options["deadline_ms"],
        energy_mj=options["energy_mj"],
        min_confidence=confidence,
        thresholds=calibration.thresholds if auto and calibration is not None else {},
    )


def rules_of(options: Mapping[str, Any], model: Model) -> Rules:
    """Return what --exit, --min-exit and --max-exit say.

    Raises:
        ExitsError: If the bundle does not have the exit.
        UsageError: If they contradict each other.
    """
    wanted, least, most = options["exit_index"], options["min_exit"], options["max_exit"]
    if least is not None and most is not None and least > most:
        raise click.UsageError(f"--min-exit {least} is deeper than --max-exit {most}")
    named = tuple(exit_index for exit_index in (least, most) if exit_index is not None)
    check_exits(named, model.exits, f"bundle {model.bundle.folder.name}")
    if wanted == "auto":
        return Rules(min_exit=least, max_exit=most)
    if least is not None or most is not None:
        raise click.UsageError(f"--exit {wanted} names the exit; leave --min-exit and --max-exit out")
    check_exits((wanted,), model.exits, f"bundle {model.bundle.folder.name}")
    return Rules(fixed=wanted) if request_of(options, None) == Request() else Rules(max_exit=wanted)


@contextmanager
def opened_signals(exit_index: int | str, trace: Path | None) -> Iterator[Source]:
    """Return the device's signals, or a recording that is played from now on; none where the exit is given.

    Raises:
        BadInputError: If the recording is none.
    """
    if exit_index != "auto":
        yield _NoSignals()
    elif trace is not None:
        points, begun = read_trace(trace), time.monotonic()
        yield TraceSource(points, lambda: time.monotonic() - begun)
    else:
        with WatchedSource(DeviceSource()) as watched:
            yield watched
