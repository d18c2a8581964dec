"""Energy meters (edgefl/signals/energy.py); the counters are files of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefl.signals import EnergyMeter


def counter(root: Path, name: str, microjoules: object, kind: str = "package-0", largest: int = 1_000_000) -> Path:
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", largest)):
        (folder / file).write_text(f"{content}\n", encoding="utf-8")
    return folder / "energy_uj"


def test_without_a_meter_energy_is_unknown(tmp_path: Path) -> None:
    meter = EnergyMeter(tmp_path)
    assert (meter.method, meter.millijoules()) == ("none", None)


def test_packages_add_up_and_their_parts_do_not_count_twice(tmp_path: Path) -> None:
    counters = [counter(tmp_path, "intel-rapl:0", 100), counter(tmp_path, "intel-rapl:1", 200, "package-1")]
    counter(tmp_path, "intel-rapl:0:0", 50, "core")
    meter = EnergyMeter(tmp_path)
    counters[0].write_text("5100", encoding="utf-8")
    counters[1].write_text("2200", encoding="utf-8")

    # 5000 + 2000 microjoules.
    assert meter.method == "RAPL"
    assert meter.millijoules() == pytest.approx(7.0)


def test_a_counter_that_starts_again_is_followed(tmp_path: Path) -> None:
    path = counter(tmp_path, "intel-rapl:0", 999_000)
    meter = EnergyMeter(tmp_path)
    path.write_text("4000", encoding="utf-8")

    assert meter.millijoules() == pytest.approx(5.0)


def test_a_counter_that_may_not_be_read_is_no_meter(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", "")
    assert EnergyMeter(tmp_path).method == "none"


def test_a_battery_s_power_is_that_of_the_time_between(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/power_supply/BAT0"
    folder.mkdir(parents=True)
    for file, content in (("type", "Battery"), ("status", "Discharging"), ("power_now", "4000000")):
        (folder / file).write_text(content, encoding="utf-8")
    meter = EnergyMeter(tmp_path)
    meter._started -= 10.0  # ten seconds ago
    (folder / "power_now").write_text("6000000", encoding="utf-8")

    # 5 W on average for 10 s.
    assert meter.method == "battery"
    assert meter.millijoules() == pytest.approx(50_000.0, rel=0.05)


def test_a_battery_that_is_charged_meanwhile_is_no_meter(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/power_supply/BAT0"
    folder.mkdir(parents=True)
    for file, content in (("type", "Battery"), ("status", "Discharging"), ("power_now", "4000000")):
        (folder / file).write_text(content, encoding="utf-8")
    meter = EnergyMeter(tmp_path)
    (folder / "status").write_text("Charging", encoding="utf-8")

    assert meter.millijoules() is None
