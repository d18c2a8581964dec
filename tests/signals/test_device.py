"""This device's signals: files in a folder of ours, and programs of the system that only a Pi or a desktop has."""

from __future__ import annotations

import stat
from pathlib import Path

import psutil
import pytest

from edgefl.core.signals import Signals
from edgefl.signals import DeviceSource
from edgefl.signals.desktop import is_idle, is_metered, saves_power
from edgefl.signals.memory import read_free_memory
from edgefl.signals.thermal import is_throttled, read_celsius

GIB = 1 << 30


def write(root: Path, path: str, content: object) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{content}\n", encoding="utf-8")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, script: str) -> None:
    """Put a stand-in for a program that this machine does not have into a folder."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.usefixtures("programs")
def test_a_machine_that_tells_nothing_is_unknown_but_for_its_memory(tmp_path: Path) -> None:
    found = DeviceSource(tmp_path).read()
    assert found.free_memory is not None
    assert found == Signals(free_memory=found.free_memory)


def test_this_machine_can_be_read() -> None:
    found = DeviceSource().read()
    assert found.free_memory is not None
    assert 0 < found.free_memory <= psutil.virtual_memory().total


def test_the_hottest_zone_counts_and_sensors_that_are_not_there_do_not(tmp_path: Path) -> None:
    for zone, millidegrees in enumerate((48_312, 71_000, 0, -273_150, 2_147_483_647, "nan")):
        write(tmp_path, f"sys/class/thermal/thermal_zone{zone}/temp", millidegrees)
    write(tmp_path, "sys/class/thermal/cooling_device0/temp", 99_000)
    assert read_celsius(tmp_path) == 71.0


def test_without_a_plausible_temperature_it_is_unknown(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", 0)
    assert read_celsius(tmp_path) is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("throttled=0x0", False),
        ("throttled=0x1", True),  # under-voltage now
        ("throttled=0x8", True),  # soft temperature limit now
        ("throttled=0x50000", False),  # under-voltage and throttling since the start, not now
        ("throttled=0x50005", True),
        ("VCHI initialization failed", None),
        ("throttled=0x", None),
    ],
)
def test_throttling_is_what_the_firmware_says_of_now(programs: Path, answer: str, expected: bool | None) -> None:
    program(programs, "vcgencmd", f"echo '{answer}'")
    assert is_throttled() is expected


def test_a_program_that_fails_or_is_not_there_leaves_it_unknown(programs: Path) -> None:
    assert is_throttled() is None
    program(programs, "vcgencmd", "echo throttled=0x0; exit 1")
    assert is_throttled() is None


@pytest.mark.parametrize(("answer", "expected"), [("u 0", None), ("u 1", True), ("u 2", False), ("u 4", False)])
def test_a_network_is_metered_where_networkmanager_says_so(programs: Path, answer: str, expected: bool | None) -> None:
    program(programs, "busctl", f'[ "$7" = Metered ] && echo "{answer}"')
    assert is_metered() is expected


@pytest.mark.parametrize(("answer", "expected"), [("b true", True), ("b false", False), ("b maybe", None)])
def test_users_are_idle_where_logind_says_so(programs: Path, answer: str, expected: bool | None) -> None:
    program(programs, "busctl", f'[ "$7" = IdleHint ] && echo "{answer}"')
    assert is_idle() is expected


def test_the_platform_s_profile_says_whether_power_is_saved(tmp_path: Path, programs: Path) -> None:
    assert saves_power(tmp_path) is None
    program(programs, "busctl", '[ "$7" = ActiveProfile ] && echo \'s "power-saver"\'')
    assert saves_power(tmp_path) is True
    write(tmp_path, "sys/firmware/acpi/platform_profile", "balanced")
    assert saves_power(tmp_path) is False


def group(root: Path, own: str, **limits: tuple[object, int]) -> None:
    """Write control groups: their limits and use, by the last part of their names."""
    write(root, "proc/self/cgroup", f"0::{own}")
    for name, (limit, used) in limits.items():
        folder = own if own.endswith(name) else own[: own.index(name) + len(name)]
        write(root, f"sys/fs/cgroup{folder}/memory.max", limit)
        write(root, f"sys/fs/cgroup{folder}/memory.current", used)


def test_free_memory_is_what_the_tightest_control_group_leaves(tmp_path: Path) -> None:
    group(
        tmp_path, "/system.slice/edgefl.service", **{"edgefl.service": ("max", 7), "system.slice": (1_000_000, 400_000)}
    )
    assert read_free_memory(tmp_path) == 600_000


def test_file_pages_that_can_be_dropped_are_free(tmp_path: Path) -> None:
    group(tmp_path, "/edgefl.service", **{"edgefl.service": (1_000_000, 900_000)})
    write(tmp_path, "sys/fs/cgroup/edgefl.service/memory.stat", "anon 600000\ninactive_file 250000\nslab 1")
    assert read_free_memory(tmp_path) == 350_000


def test_a_group_above_its_limit_has_nothing_left(tmp_path: Path) -> None:
    group(tmp_path, "/edgefl.service", **{"edgefl.service": (1_000_000, 1_200_000)})
    assert read_free_memory(tmp_path) == 0


def test_without_control_groups_the_system_s_memory_counts(tmp_path: Path) -> None:
    assert 0 < read_free_memory(tmp_path) <= psutil.virtual_memory().total
