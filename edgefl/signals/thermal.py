"""Temperature and throttling, as Linux and the Raspberry Pi's firmware tell them."""

from __future__ import annotations

import re
from pathlib import Path

from edgefl.signals.commands import output_of
from edgefl.signals.files import read_number

__all__ = ["is_throttled", "read_celsius"]

_ZONES = Path("sys/class/thermal")
_PLAUSIBLE = (-40.0, 150.0)
_ANSWER = re.compile(r"throttled=0x([0-9a-fA-F]{1,8})")
_NOW = 0b1111
"""Bits of `vcgencmd get_throttled`: under-voltage, capped, throttled, soft limit; from 16 up they speak of the past."""


def read_celsius(root: Path) -> float | None:
    """Return the highest temperature of all thermal zones; None without one that can be.

    Args:
        root: The root of the file system.
    """
    found = [read_number(path / "temp") for path in (root / _ZONES).glob("thermal_zone*")]
    degrees = [millidegrees / 1000.0 for millidegrees in found if millidegrees is not None]
    # A sensor that is not there reads 0, -273 or 2^31 thousandths on many boards.
    plausible = [value for value in degrees if _PLAUSIBLE[0] < value < _PLAUSIBLE[1] and value != 0.0]
    return max(plausible, default=None)


def is_throttled() -> bool | None:
    """Say whether a Raspberry Pi's firmware slows it down now; None where there is no such firmware."""
    answer = _ANSWER.fullmatch(output_of("vcgencmd", "get_throttled") or "")
    return bool(int(answer[1], 16) & _NOW) if answer else None
