"""The battery as /sys tells it (edgefl/signals/power_supply.py), in files with the contents that devices have."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefl.signals.power_supply import PowerSupply, read_power_supply


def supply(root: Path, name: str, **files: object) -> None:
    folder = root / "sys/class/power_supply" / name
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_text(f"{content}\n", encoding="utf-8")


def laptop(root: Path, status: str, online: int, **files: object) -> None:
    supply(root, "AC", type="Mains", online=online)
    supply(root, "BAT0", type="Battery", status=status, **files)


def test_a_machine_without_supplies_knows_nothing(tmp_path: Path) -> None:
    assert read_power_supply(tmp_path) == PowerSupply()


def test_a_laptop_on_its_battery(tmp_path: Path) -> None:
    laptop(tmp_path, "Discharging", 0, capacity=42, power_now=7_500_000)
    assert read_power_supply(tmp_path) == PowerSupply(charge=0.42, charging=False, watts=7.5)


def test_a_laptop_that_is_plugged_in_delivers_nothing(tmp_path: Path) -> None:
    laptop(tmp_path, "Charging", 1, capacity=42, power_now=30_000_000)
    assert read_power_supply(tmp_path) == PowerSupply(charge=0.42, charging=True, watts=0.0)


def test_a_battery_that_is_kept_below_full_is_not_discharged_while_the_plug_is_in(tmp_path: Path) -> None:
    laptop(tmp_path, "Not charging", 1, capacity=80)
    assert read_power_supply(tmp_path).charging is True


def test_a_ups_hat_whose_gauge_tells_no_status_has_a_charge_and_no_more(tmp_path: Path) -> None:
    # max17040, as on many HATs: it measures the cell and knows nothing of the plug.
    supply(tmp_path, "battery", type="Battery", status="Unknown", capacity=63, voltage_now=3_900_000)
    assert read_power_supply(tmp_path) == PowerSupply(charge=0.63, charging=None, watts=None)


def test_current_times_voltage_is_power_whatever_the_current_s_sign(tmp_path: Path) -> None:
    supply(tmp_path, "bms", type="UPS", status="Discharging", capacity=50, current_now=-500_000, voltage_now=4_000_000)
    assert read_power_supply(tmp_path).watts == pytest.approx(2.0)


def test_two_batteries_count_by_what_they_hold(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", status="Full", capacity=100, energy_full=20_000_000)
    supply(tmp_path, "BAT1", type="Battery", status="Discharging", capacity=20, energy_full=60_000_000)
    # A quarter of the capacity is full, three quarters are at 20 %.
    assert read_power_supply(tmp_path).charge == pytest.approx(0.40)


def test_batteries_whose_size_is_not_known_of_all_count_alike(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", capacity=100, energy_full=20_000_000)
    supply(tmp_path, "BAT1", type="Battery", capacity=20)
    assert read_power_supply(tmp_path).charge == pytest.approx(0.60)


def test_the_battery_of_a_mouse_is_not_this_device_s(tmp_path: Path) -> None:
    supply(tmp_path, "hidpp_battery_0", type="Battery", scope="Device", status="Discharging", capacity=5)
    assert read_power_supply(tmp_path) == PowerSupply()


def test_a_bay_without_a_battery_counts_for_nothing(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", present=0, capacity=0)
    supply(tmp_path, "BAT1", type="Battery", present=1, capacity=70)
    assert read_power_supply(tmp_path).charge == pytest.approx(0.70)


@pytest.mark.parametrize("nonsense", ["-5", "101", "255", "nan", "inf", "1e999", "", "full", "4294967295"])
def test_a_charge_that_cannot_be_is_unknown_and_warned_of(
    tmp_path: Path, nonsense: str, caplog: pytest.LogCaptureFixture
) -> None:
    laptop(tmp_path, "Discharging", 0, capacity=nonsense)

    assert read_power_supply(tmp_path).charge is None
    assert "its charge counts as unknown" in caplog.text
    assert repr(nonsense) in caplog.text


def test_one_battery_s_nonsense_is_not_made_up_for_by_another(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", capacity=250)
    supply(tmp_path, "BAT1", type="Battery", capacity=70)
    assert read_power_supply(tmp_path).charge is None


def test_a_battery_that_tells_no_charge_is_unknown_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    laptop(tmp_path, "Discharging", 0)
    assert read_power_supply(tmp_path) == PowerSupply(charge=None, charging=False)
    assert caplog.text == ""


def test_files_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    laptop(tmp_path, "Discharging", 0, capacity=50)
    (tmp_path / "sys/class/power_supply/BAT0/status").unlink()
    (tmp_path / "sys/class/power_supply/BAT0/status").mkdir()  # reading a folder fails as a dead sensor does
    (tmp_path / "sys/class/power_supply/AC/online").write_bytes(b"\xff\xfe\n")
    assert read_power_supply(tmp_path) == PowerSupply(charge=0.5, charging=None)


@pytest.mark.parametrize("other", ["Full", "Charging"])
def test_a_laptop_that_takes_power_from_one_of_its_batteries_is_not_charging(tmp_path: Path, other: str) -> None:
    supply(tmp_path, "AC", type="Mains", online=0)
    supply(tmp_path, "BAT0", type="Battery", status="Discharging", capacity=60)
    supply(tmp_path, "BAT1", type="Battery", status=other, capacity=100)

    assert read_power_supply(tmp_path).charging is False


def test_a_plug_with_a_programmable_voltage_is_a_plug(tmp_path: Path) -> None:
    supply(tmp_path, "usb", type="USB", online=2)
    supply(tmp_path, "battery", type="Battery", status="Not charging", capacity=60)

    assert read_power_supply(tmp_path).charging is True


def test_batteries_that_tell_their_size_in_other_units_count_alike(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", status="Discharging", capacity=10, energy_full=50_000_000)
    supply(tmp_path, "BAT1", type="Battery", status="Discharging", capacity=100, charge_full=4_000_000)

    assert read_power_supply(tmp_path).charge == pytest.approx(0.55)


def test_a_battery_that_says_not_what_it_does_delivers_nobody_knows_what(tmp_path: Path) -> None:
    supply(tmp_path, "gauge", type="Battery", capacity=50, power_now=3_000_000)

    assert read_power_supply(tmp_path).watts is None
