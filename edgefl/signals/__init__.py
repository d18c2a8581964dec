"""What a device knows about itself: battery, heat, memory, network, its user.

What cannot be read is unknown, never guessed.  `edgefl.policy` decides from it which exit answers, and a client whether
it trains.
"""

from __future__ import annotations

from typing import Protocol

from edgefl.core.signals import Signals
from edgefl.signals.device import DeviceSource
from edgefl.signals.energy import EnergyMeter
from edgefl.signals.trace import TracePoint, TraceSource, read_trace

__all__ = ["DeviceSource", "EnergyMeter", "Signals", "Source", "TracePoint", "TraceSource", "read_trace"]


class Source(Protocol):
    """Where signals come from."""

    def read(self) -> Signals:
        """Return what is known now."""
        ...
