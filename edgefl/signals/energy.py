"""Energy that was spent, where a meter tells: RAPL counters, or what a battery delivers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from edgefl.signals.files import read_number, read_text
from edgefl.signals.power_supply import read_power_supply

__all__ = ["EnergyMeter"]

_RAPL = Path("sys/class/powercap")


class EnergyMeter:
    """Tells the energy between its start and now.

    RAPL counts what the processor's packages take; a battery's power is that of the whole device, read at both ends.

    Args:
        root: The root of the file system.

    Attributes:
        method: What it reads: `RAPL`, `battery`, or `none`.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._counters = _packages(root)
        self._started = time.monotonic()
        self._begin = [read_number(path / "energy_uj") for path in self._counters]
        if self._counters and None in self._begin:  # readable by root alone, on many systems
            self._counters = []
        self._watts = read_power_supply(root).watts
        self.method = "RAPL" if self._counters else "battery" if self._watts else "none"

    def millijoules(self) -> float | None:
        """Return the energy since the start in mJ; None where nothing tells."""
        if self._counters:
            return _counted(self._counters, self._begin)
        watts = read_power_supply(self._root).watts
        if not self._watts or not watts:
            return None
        return 1000.0 * (self._watts + watts) / 2 * (time.monotonic() - self._started)


def _packages(root: Path) -> list[Path]:
    """Return the counters of whole packages: `intel-rapl:0`, not the parts of one, `intel-rapl:0:1`."""
    return [
        path
        for path in sorted((root / _RAPL).glob("*-rapl:*"))
        if (read_text(path / "name") or "").startswith("package")
    ]


def _counted(counters: Sequence[Path], begin: Sequence[float | None]) -> float | None:
    total = 0.0
    for path, before in zip(counters, begin, strict=True):
        now, largest = read_number(path / "energy_uj"), read_number(path / "max_energy_range_uj")
        if now is None or before is None or (now < before and largest is None):
            return None
        total += now - before + (largest or 0.0 if now < before else 0.0)
    return total / 1000.0
