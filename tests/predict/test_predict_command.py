"""`edgefl predict` on the golden bundle: where it stops, why, and what it reports."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import pytest
from PIL import Image

import edgefl
from edgefl.bundle import Bundle
from edgefl.bundle.personal import personal_path
from edgefl.core.signals import Signals
from edgefl.errors import AdapterLayoutError, BadInputError, ExitsError, NotABundleError
from edgefl.predict.calibration import Calibration, ExitCalibration, FrontierPoint, confidence
from edgefl.predict.command import predict
from tests.golden_bundle import GOLDEN, copy_golden

Records = dict[str, list[dict[str, Any]]]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return path


def answered(folder: Path, *arguments: object) -> Records:
    """Run the command and return its records by name."""
    report = folder.parent / "report.json"
    predict.main([str(folder), *map(str, arguments), "--json", str(report)], standalone_mode=False)
    records: Records = {}
    for record in json.loads(report.read_text())["records"]:
        records.setdefault(record["name"], []).append(record)
    return records


def stopped(records: Records) -> tuple[float, str]:
    (record,) = records["chosen_exit"]
    return record["value"], record["labels"]["stop_reason"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return copy_golden(tmp_path)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A recording of a device that is charged and cool."""
    return recorded(tmp_path, Signals(charge=1.0, charging=False, celsius=30.0))


def recorded(folder: Path, signals: Signals) -> Path:
    path = folder / "trace.jsonl"
    path.write_bytes(b'{"seconds": 0.0, "signals": ' + msgspec.json.encode(signals) + b"}\n")
    return path


def calibrated(folder: Path, thresholds: list[float], temperature: float = 1.0) -> None:
    """Store a calibration of the bundle's own adapter."""
    opened = Bundle(folder)
    exits = [
        ExitCalibration(
            exit_index=e, temperature=temperature, threshold=threshold, accuracy=0.5,
            calibration_error_before=0.0, calibration_error_after=0.0,
        )
        for e, threshold in enumerate(thresholds)
    ]  # fmt: skip
    point = FrontierPoint(cost_ms=1.0, accuracy=0.5)
    Calibration(
        bundle_id=opened.manifest.bundle_id, adapter_sha256=opened.adapter().digest(), num_samples=20, max_loss=0.0,
        chosen=point, deepest=point, frontier=[point], exits=exits,
    ).write(folder)  # fmt: skip


def test_every_exit_on_the_way_is_reported_as_the_model_answers(bundle: Path, image: Path, trace: Path) -> None:
    records = answered(bundle, image, "--trace", trace)

    with Image.open(image) as opened:
        expected = list(edgefl.load(bundle).infer(np.asarray(opened.convert("RGB"))))
    assert [record["labels"] for record in records["confidence"]] == [
        {"file": str(image), "exit": e} for e in (0, 1, 2)
    ]
    assert [record["value"] for record in records["label"]] == [int(p.labels[0]) for p in expected]
    for record, prediction in zip(records["confidence"], expected, strict=True):
        assert record["value"] == pytest.approx(float(prediction.confidence[0]), rel=1e-5)
    times = [record["value"] for record in records["exit_ms"]]
    assert 0 < times[0] < times[1] < times[2]
    assert stopped(records) == (2, "deepest")


@pytest.mark.parametrize(
    ("signals", "options", "expected"),
    [
        (Signals(charge=0.05, charging=False), [], (0, "battery")),
        (Signals(charge=0.05, charging=True), [], (2, "deepest")),
        (Signals(celsius=79.0), [], (0, "heat")),
        (Signals(charge=0.05, charging=False), ["--min-exit", 1], (1, "min_exit")),
        (Signals(), ["--max-exit", 1], (1, "max_exit")),
        (Signals(), ["--min-confidence", 0.0], (0, "confidence")),
        (Signals(), ["--min-confidence", 1.0], (2, "deepest")),
        (Signals(), ["--deadline-ms", 0.0], (0, "deadline")),
        (Signals(), ["--deadline-ms", 1e9], (2, "deepest")),
        (Signals(), ["--deadline-ms", 1e9, "--min-confidence", 0.0], (0, "confidence")),
    ],
)
def test_the_answer_stops_where_signals_and_requests_say(
    bundle: Path, image: Path, tmp_path: Path, signals: Signals, options: list[object], expected: tuple[int, str]
) -> None:
    assert stopped(answered(bundle, image, "--trace", recorded(tmp_path, signals), *options)) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (1, "fixed")),
        (["--min-confidence", 0.0], (0, "confidence")),
        (["--min-confidence", 1.0], (1, "max_exit")),
        (["--deadline-ms", 0.0], (0, "deadline")),
    ],
)
def test_a_named_exit_answers_whatever_the_battery_says(
    bundle: Path, image: Path, tmp_path: Path, options: list[object], expected: tuple[int, str]
) -> None:
    empty = recorded(tmp_path, Signals(charge=0.0, charging=False))

    assert stopped(answered(bundle, image, "--exit", 1, "--trace", empty, *options)) == expected


def test_calibrated_thresholds_stop_an_answer_and_temperatures_change_its_confidence(
    bundle: Path, image: Path, trace: Path
) -> None:
    calibrated(bundle, [1.0, 0.0, 0.0], temperature=4.0)

    records = answered(bundle, image, "--trace", trace)
    fixed = answered(bundle, image, "--exit", 2)
    asked = answered(bundle, image, "--trace", trace, "--min-confidence", 0.0)

    assert stopped(records) == (1, "confidence")
    # A named exit is reached, and as sure as ever.
    assert stopped(fixed) == (2, "fixed")
    assert [r["value"] for r in fixed["confidence"][:2]] == [r["value"] for r in records["confidence"]]
    with Image.open(image) as opened:
        first = next(edgefl.load(bundle).infer(np.asarray(opened.convert("RGB"))))
    assert records["confidence"][0]["value"] == pytest.approx(float(confidence(first.logits, 4.0)[0]), rel=1e-5)
    assert stopped(asked) == (0, "confidence")


def test_the_personal_adapter_answers_where_there_is_one_made_from_the_global_one(
    bundle: Path, image: Path, trace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Bundle(bundle)
    own = opened.adapter()
    tensors = {name: np.array(array) for name, array in own.tensors.items()}
    tensors["head.mlp.fc2.bias"][4] += np.float32(100)
    personal = type(own)(bundle_id=own.bundle_id, version=own.version, round=own.round, tensors=tensors)
    path = personal_path(bundle, own)
    path.parent.mkdir()
    personal.save(path, opened.manifest.adapter.header_bytes)

    assert [r["value"] for r in answered(bundle, image, "--trace", trace)["label"]] == [4, 4, 4]
    bundles_own = answered(bundle, image, "--trace", trace, "--adapter", bundle / "adapter.safetensors")
    assert bundles_own["confidence"][0]["value"] < 0.999

    # Another federation may have the same version.
    tensors = {**own.tensors, "head.mlp.fc2.bias": np.float32(2) + own.tensors["head.mlp.fc2.bias"]}
    newer = type(own)(bundle_id=own.bundle_id, version=own.version, round=own.round, tensors=tensors)
    newer.save(bundle / "adapter.safetensors", opened.manifest.adapter.header_bytes)
    assert answered(bundle, image, "--trace", trace)["confidence"][0]["value"] < 0.999
    assert "was made from another global adapter; run edgefl personalize again" in caplog.text


def test_files_that_cannot_be_read_are_named_and_the_others_answered(
    bundle: Path, image: Path, trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(image.read_bytes()[:100])
    files = [tmp_path / "empty.png", image, tmp_path / "cut.png", tmp_path / "missing.png"]

    with pytest.raises(BadInputError, match="3 of 4 files could not be answered"):
        answered(bundle, *files, "--trace", trace)

    said = capsys.readouterr()
    for name in ("empty.png", "cut.png", "missing.png"):
        assert f"{name} cannot be read as an image" in said.err
    assert str(image) in said.out
    report = json.loads((bundle.parent / "report.json").read_text())
    assert {record["labels"]["file"] for record in report["records"]} == {str(image)}


def test_a_file_name_that_is_no_text_is_reported_with_its_bytes(bundle: Path, image: Path, trace: Path) -> None:
    strange = Path(os.fsdecode(os.fsencode(image.parent) + b"/x\xff.png"))
    strange.write_bytes(image.read_bytes())

    (record,) = answered(bundle, strange, "--trace", trace)["chosen_exit"]

    assert record["labels"]["file"].endswith("x\\xff.png")


def test_a_pipe_is_no_image(bundle: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")

    with pytest.raises(BadInputError, match="1 of 1 files could not be answered"):
        answered(bundle, tmp_path / "pipe.png")


def test_a_budget_of_energy_without_a_meter_is_said_to_limit_nothing(
    bundle: Path, image: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = answered(bundle, image, "--trace", trace, "--energy-mj", 0.0)

    assert (stopped(records)[0] < 2) != ("no meter tells energy here" in capsys.readouterr().err)


def test_explained_is_every_exit_and_all_that_limits_the_depth(
    bundle: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hot = recorded(tmp_path, Signals(charge=0.05, charging=False, celsius=65.0))

    predict.main([str(bundle), str(image), "--trace", str(hot), "--explain"], standalone_mode=False)

    said = capsys.readouterr().out
    assert "battery: the battery is at 5% (exit 0)" in said
    assert "heat: the device is at 65 °C (exit 1)" in said


@pytest.mark.parametrize(
    ("arguments", "error", "fault"),
    [
        (["--exit", "3"], ExitsError, "exit 3 does not exist: bundle bundle has the exits 0-2"),
        (["--max-exit", "3"], ExitsError, "exit 3 does not exist"),
        (["--exit", "deep"], click.BadParameter, "'deep' is neither auto nor the number of an exit"),
        (["--exit", "1", "--max-exit", "2"], click.UsageError, "--exit 1 names the exit"),
        (["--min-exit", "2", "--max-exit", "1"], click.UsageError, "--min-exit 2 is deeper than --max-exit 1"),
        (["--deadline-ms", "nan"], click.BadParameter, "nan is no finite number"),
        (["--deadline-ms", "-1"], click.BadParameter, "-1"),
        (["--min-confidence", "1.1"], click.BadParameter, "range 0<=x<=1"),
        (["--trace", __file__], BadInputError, "line 1: .* expected"),
        (["--adapter", str(GOLDEN / "backbone.safetensors")], AdapterLayoutError, "belongs to bundle None"),
    ],
)
def test_what_cannot_be_used_is_refused(
    bundle: Path, image: Path, arguments: list[str], error: type[Exception], fault: str
) -> None:
    with pytest.raises(error, match=fault):
        answered(bundle, image, *arguments)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, image: Path) -> None:
    with pytest.raises(NotABundleError):
        answered(tmp_path / "nothing", image)
