"""The battery, as Linux tells it in /sys/class/power_supply: laptops, UPS HATs, phones."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefl.signals.files import read_number, read_text

__all__ = ["PowerSupply", "read_power_supply"]

_FOLDER = Path("sys/class/power_supply")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerSupply:
    """What all supplies together say.

    Attributes:
        charge: Of all batteries, in [0, 1]; None without a battery, or where one says what cannot be.
        charging: Whether power comes from outside; None where none of them tells.
        watts: What the batteries deliver now, above 0 while they are discharged; None where that is not told.
    """

    charge: float | None = None
    charging: bool | None = None
    watts: float | None = None


def read_power_supply(root: Path) -> PowerSupply:
    """Read all power supplies.

    Args:
        root: The root of the file system.
    """
    supplies = [path for path in sorted((root / _FOLDER).glob("*")) if _powers_the_device(path)]
    batteries = [path for path in supplies if read_text(path / "type") in {"Battery", "UPS"}]
    mains = [path for path in supplies if path not in batteries]
    return PowerSupply(
        charge=_charge(batteries), charging=_charging(mains, batteries), watts=_watts(batteries) if batteries else None
    )


def _powers_the_device(path: Path) -> bool:
    """Tell a battery of this device from one of a mouse or headset."""
    return read_text(path / "scope") != "Device"


def _charge(batteries: Sequence[Path]) -> float | None:
    """Return the charge of all batteries, each counted by its capacity where that is known of all."""
    percents, sizes = [], []
    for path in batteries:
        if read_text(path / "present") == "0":
            continue
        percent = read_number(path / "capacity")
        if percent is None or not 0 <= percent <= 100:
            said = read_text(path / "capacity")
            if said is not None:
                _log.warning("%s says its charge is %r %%, which cannot be; its charge counts as unknown", path, said)
            return None
        percents.append(percent)
        sizes.append({unit: read_number(path / f"{unit}_full") or 0.0 for unit in ("energy", "charge")})
    if not percents:
        return None
    # In one unit for all of them, or all alike.
    units = [unit for unit in ("energy", "charge") if all(size[unit] > 0 for size in sizes)]
    shares = [size[units[0]] for size in sizes] if units else [1.0] * len(sizes)
    return sum(percent * share for percent, share in zip(percents, shares, strict=True)) / sum(shares) / 100


def _charging(mains: Sequence[Path], batteries: Sequence[Path]) -> bool | None:
    """Say whether power comes from outside: a plug that is online says so, a battery that is discharged denies it."""
    online = {read_text(path / "online") for path in mains}
    if online & {"1", "2"}:  # 2 is a plug whose voltage can be programmed
        return True
    states = {read_text(path / "status") for path in batteries}
    # One battery may be charged by another, or be full beside it.
    if "Discharging" in states or "0" in online:
        return False
    return True if states & {"Charging", "Full"} else None


def _watts(batteries: Sequence[Path]) -> float | None:
    """Return what batteries deliver, from power in µW, or current in µA times voltage in µV."""
    found = list(_each_watts(batteries))
    return None if None in found else sum(watts for watts in found if watts is not None)


def _each_watts(batteries: Sequence[Path]) -> Iterator[float | None]:
    for path in batteries:
        power = read_number(path / "power_now")
        current, voltage = read_number(path / "current_now"), read_number(path / "voltage_now")
        if power is not None:
            watts = abs(power) / 1e6
        elif current is not None and voltage is not None:
            watts = abs(current) * voltage / 1e12
        else:
            yield None
            continue
        status = read_text(path / "status")
        yield None if status is None else max(watts, 0.0) if status == "Discharging" else 0.0
