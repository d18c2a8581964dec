"""Exits measured in processes of their own, and what becomes of the numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgefl.bundle import Bundle
from edgefl.cli import main
from edgefl.core.report import Record
from edgefl.errors import EdgeFLError, ExitsError, UnknownProgramError
from edgefl.measure.child import Raw, Task, measure
from edgefl.measure.exits import measure_exits
from tests.golden_bundle import GOLDEN, change_manifest, copy_golden


def child(stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "edgefl.measure.child"], input=stdin, capture_output=True, check=False, timeout=60
    )


def by_name(records: list[Record]) -> dict[str, Record]:
    assert len({record.name for record in records}) == len(records)
    return {record.name: record for record in records}


def test_an_exit_has_memory_latency_and_counted_cost_with_units_and_labels() -> None:
    (records,) = measure_exits(Bundle(GOLDEN), [1], "train", batch=5, memory="lean", repetitions=3)
    found = by_name(records)

    assert {name: record.unit for name, record in found.items()} == {
        "peak_rss": "byte",
        "baseline_rss": "byte",
        "anonymous_peak": "byte",
        "baseline_anonymous": "byte",
        "mapped_weights": "byte",
        "latency": "ms",
        "latency_p95": "ms",
        "parameters": "1",
        "trainable_parameters": "1",
        "macs": "1",
        "planned_bytes": "byte",
        "load_bytes": "byte",
    }
    assert all(record.labels == {"exit": 1, "mode": "train", "batch": 5, "memory": "lean"} for record in records)
    cost = Bundle(GOLDEN).manifest.costs["train/1/lean"]
    for name in ("parameters", "trainable_parameters", "macs", "planned_bytes"):
        assert found[name].value == getattr(cost, name)
    graphs = {call.graph for call in Bundle(GOLDEN).program("train/1/lean").calls}
    assert found["load_bytes"].value == 4 * cost.parameters + sum(
        (GOLDEN / f"{graph}.onnx").stat().st_size for graph in graphs
    )

    latency = found["latency"]
    assert latency.repetitions == 3
    assert latency.min is not None
    assert latency.max is not None
    assert 0 < latency.min <= latency.value <= found["latency_p95"].value <= latency.max
    assert found["peak_rss"].value > found["baseline_rss"].value > 10_000_000
    assert found["peak_rss"].value > found["anonymous_peak"].value > 1_000_000
    assert "lower bound" in (found["anonymous_peak"].method or "")
    assert 0 < found["mapped_weights"].value <= 128 * 1024  # 68,672 + 25,636 bytes in pages of 4096


def test_the_baseline_loads_no_bundle() -> None:
    done = child(msgspec.json.encode(Task(folder="/nowhere", mode="baseline")))

    raw = msgspec.json.decode(done.stdout, type=Raw)
    assert raw.peak_rss > raw.anonymous_peak > 10_000_000
    assert (raw.mapped_weights, raw.seconds) == (0, [])


def test_a_child_answers_one_json_document_and_nothing_else() -> None:
    done = child(msgspec.json.encode(Task(folder=str(GOLDEN), mode="infer", exit_index=2, batch=2, repetitions=4)))

    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"peak_rss", "anonymous_peak", "mapped_weights", "seconds"}
    assert len(json.loads(done.stdout)["seconds"]) == 4
    assert done.stderr == b""


def test_a_child_that_is_asked_for_something_unknown_fails() -> None:
    done = child(b'{"folder": "/nowhere", "mode": "infer", "script": "rm"}')

    assert done.returncode != 0
    assert b"unknown field `script`" in done.stderr
    assert done.stdout == b""


def test_the_timed_runs_come_after_one_that_is_not_timed() -> None:
    raw = measure(Task(folder=str(GOLDEN), mode="train", exit_index=0, batch=1, repetitions=2))

    assert len(raw.seconds) == 2
    assert all(seconds > 0 for seconds in raw.seconds)
    assert raw.anonymous_peak > 0


def test_a_child_that_fails_is_an_error_that_names_exit_and_reason(tmp_path: Path) -> None:
    bundle = Bundle(copy_golden(tmp_path))
    data = bytearray((bundle.folder / "adapter.safetensors").read_bytes())
    data[-1] ^= 1
    (bundle.folder / "adapter.safetensors").write_bytes(data)

    with pytest.raises(
        EdgeFLError,
        match=r"infer at exit 2, batch 1, ended early: .*does not have the data it was written with.* --batch-size",
    ):
        list(measure_exits(bundle, [2], "infer", batch=1, memory=None, repetitions=1))


def test_an_unknown_exit_is_refused_before_any_process_is_started() -> None:
    with pytest.raises(ExitsError, match="exit 7 does not exist: bundle bundle has the exits 0-2"):
        measure_exits(Bundle(GOLDEN), [0, 7], "infer", batch=1, memory=None, repetitions=1)


def test_a_knob_the_bundle_does_not_have_is_refused_before_any_process_is_started(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    change_manifest(bundle, lambda fields: fields["variants"].pop("train/2/fast"))
    with pytest.raises(UnknownProgramError, match="no program 'train/2/fast' in"):
        measure_exits(Bundle(bundle), [1, 2], "train", batch=1, memory="fast", repetitions=1)


def test_the_command_writes_a_report_and_shows_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"

    main(["measure", str(GOLDEN), "--exits", "0", "--repetitions", "2", "--json", str(path)])

    report = json.loads(path.read_text(encoding="utf-8"))
    assert (report["schema"], report["command"]) == ("edgefl.report/1", "measure")
    assert report["settings"] == {
        "bundle": Bundle(GOLDEN).manifest.bundle_id,
        "model": "golden",
        "mode": "infer",
        "exits": [0],
        "batch": 1,
        "repetitions": 2,
        "memory": "balanced",
    }
    assert len(report["records"]) == 12
    assert {record["labels"]["memory"] for record in report["records"]} == {"balanced"}
    assert "infer, batch 1; the imports alone peak at" in capsys.readouterr().out
