"""Recorded signals (edgefl/signals/trace.py)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgefl.core.signals import Signals
from edgefl.errors import BadInputError, StorageError
from edgefl.signals import TraceSource, read_trace


def test_a_recording_answers_with_the_last_reading_before_a_time(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"seconds": 0, "signals": {"charge": 1.0}}\n\n'
        '{"seconds": 60, "signals": {"charge": 0.9, "charging": false}}\n',
        encoding="utf-8",
    )
    now = [-1.0]
    source = TraceSource(read_trace(path), lambda: now[0])

    readings = []
    for now[0] in (-1.0, 0.0, 59.9, 60.0, 1e6):
        readings.append(source.read())

    full, lower = Signals(charge=1.0), Signals(charge=0.9, charging=False)
    assert readings == [Signals(), full, full, lower, lower]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("battery: 3", "line 2: JSON is malformed"),
        ('{"seconds": 1}', "line 2: .*`signals`"),
        ('{"seconds": 1, "signals": {"charge": 1.5}}', r"line 2: .*<= 1\.0"),
        ('{"seconds": 1, "signals": {"volts": 3}}', "line 2: .*unknown field `volts`"),
        ('{"seconds": -1, "signals": {}}', r"line 2: -1\.0 s comes after 0\.0 s"),
    ],
)
def test_a_line_that_is_no_reading_is_refused_by_its_number(tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"seconds": 0, "signals": {}}\n' + line, encoding="utf-8")

    with pytest.raises(BadInputError, match=fault):
        read_trace(path)


def test_a_pipe_is_no_recording(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInputError, match="is no file"):
        read_trace(tmp_path / "pipe")


def test_a_recording_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        read_trace(tmp_path / "none.jsonl")
