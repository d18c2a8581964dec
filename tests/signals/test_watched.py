"""Signals read beside the work."""

from __future__ import annotations

import threading

from edgefl.core.signals import Signals
from edgefl.signals import WatchedSource


class Draining:
    """A battery that loses a tenth with each reading, and an event for the third."""

    def __init__(self) -> None:
        self.readings, self.third = 0, threading.Event()

    def read(self) -> Signals:
        """Return the next reading."""
        self.readings += 1
        if self.readings == 3:
            self.third.set()
        return Signals(charge=1.0 - self.readings / 10)


def test_the_first_reading_is_there_when_the_block_begins_and_others_follow() -> None:
    battery = Draining()
    with WatchedSource(battery, seconds=0.001) as watched:
        first = watched.read()
        assert battery.third.wait(10)

    assert first.charge is not None
    assert first.charge <= 0.9
    latest = watched.read().charge
    assert latest is not None
    assert latest <= 0.7 + 1e-9


def test_nothing_is_read_after_the_block() -> None:
    battery = Draining()
    with WatchedSource(battery, seconds=0.001):
        assert battery.third.wait(10)
    readings = battery.readings

    assert battery.readings == readings
    assert not any(thread.name == "signals" for thread in threading.enumerate())


def test_asking_reads_nothing() -> None:
    battery = Draining()
    with WatchedSource(battery, seconds=1000.0) as watched:
        assert [watched.read().charge for _ in range(5)] == [0.9] * 5
    assert battery.readings == 1
