"""The document that `--json` writes."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest

from edgefl import __version__
from edgefl.core.report import Record, Report, this_device
from edgefl.errors import StorageError


def report() -> Report:
    records = [
        Record(name="peak_rss", unit="byte", value=231, labels={"exit": 11, "mode": "train"}, method="VmHWM"),
        Record(name="latency", unit="ms", value=2.5, min=2.0, max=4.0, repetitions=3),
    ]
    return Report(command="measure", settings={"exits": [0, 11]}, records=records, device=this_device())


def test_a_report_holds_schema_command_settings_device_and_records(tmp_path: Path) -> None:
    report().write(str(tmp_path / "report.json"))

    document = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))

    assert document["schema"] == "edgefl.report/1"
    assert document["edgefl"] == __version__
    assert document["command"] == "measure"
    assert document["settings"] == {"exits": [0, 11]}
    assert document["records"] == [
        {"name": "peak_rss", "unit": "byte", "value": 231, "labels": {"exit": 11, "mode": "train"}, "method": "VmHWM"},
        {"name": "latency", "unit": "ms", "value": 2.5, "min": 2.0, "max": 4.0, "repetitions": 3},
    ]
    assert set(document) == {"schema", "edgefl", "command", "settings", "device", "records"}


def test_a_dash_is_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    report().write("-")

    assert json.loads(capfdbinary.readouterr().out)["command"] == "measure"


def test_a_report_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        report().write(str(tmp_path / "none" / "report.json"))


def test_the_device_is_described_by_what_this_process_may_use() -> None:
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        assert this_device().cores == 1
    finally:
        os.sched_setaffinity(0, usable)

    device = this_device()
    assert device.cores == len(usable)
    assert device.memory_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert device.machine == platform.machine()
    assert device.python == platform.python_version()
