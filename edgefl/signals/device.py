"""This device, read through whatever its system offers."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from edgefl.core.signals import Signals
from edgefl.signals.desktop import is_idle, is_metered, saves_power
from edgefl.signals.memory import read_free_memory
from edgefl.signals.power_supply import read_power_supply
from edgefl.signals.thermal import is_throttled, read_celsius

__all__ = ["DeviceSource"]


class DeviceSource:
    """Reads this device.

    Args:
        root: The root of the file system, another one for tests.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def read(self) -> Signals:
        """Return what can be read now; the rest is unknown."""
        if sys.platform != "linux":
            return _portable()
        power = read_power_supply(self._root)
        return Signals(
            charge=power.charge,
            charging=power.charging,
            power_save=saves_power(self._root),
            celsius=read_celsius(self._root),
            throttled=is_throttled(),
            free_memory=read_free_memory(self._root),
            metered=is_metered(),
            idle=is_idle(),
        )


def _portable() -> Signals:
    """Return what psutil reads on macOS and Windows."""
    free_memory = int(psutil.virtual_memory().available)
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    if battery is None:
        return Signals(free_memory=free_memory)
    charge = battery.percent / 100 if 0 <= battery.percent <= 100 else None
    return Signals(charge=charge, charging=battery.power_plugged, free_memory=free_memory)
