"""What a device knows about itself: battery, heat, memory, network, its user.

What cannot be read is unknown, never guessed.  `edgefl.policy` decides from it which exit answers, and a client whether
it trains.
"""

from __future__ import annotations

from edgefl.core.signals import Signals
from edgefl.signals.device import DeviceSource
from edgefl.signals.energy import EnergyMeter
from edgefl.signals.source import Source
from edgefl.signals.trace import TracePoint, TraceSource, read_trace
from edgefl.signals.watched import WatchedSource

__all__ = [
    "DeviceSource",
    "EnergyMeter",
    "Signals",
    "Source",
    "TracePoint",
    "TraceSource",
    "WatchedSource",
    "read_trace",
]
