"""`edgefl calibrate` as a user meets it: what it leaves beside the bundle, what it says, what it refuses."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

from edgefl.bundle import Adapter, Bundle
from edgefl.calibrate.command import calibrate
from edgefl.errors import AdapterLayoutError, EdgeFLError, NotABundleError, SamplesError, StorageError
from edgefl.predict.calibration import read_calibration
from tests.calibrate.held_out import forty
from tests.golden_bundle import CLASSES, EXITS, copy_golden, trained_adapter, trained_model

FORTY = "tests.calibrate.held_out:forty"


def run(*arguments: str | Path) -> None:
    calibrate.main([str(argument) for argument in arguments], standalone_mode=False)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def save_trained(bundle: Bundle, path: Path) -> None:
    adapter = Adapter(bundle_id=bundle.manifest.bundle_id, version=1, round=1, tensors=trained_adapter())
    adapter.save(path, bundle.manifest.adapter.header_bytes)


def image_folder(folder: Path, images: int) -> Path:
    random = np.random.default_rng(0)
    for number in range(images):
        subfolder = folder / str(number % CLASSES)
        subfolder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 18, 3), np.uint8)).save(subfolder / f"{number:02}.png")
    return folder


def test_the_report_the_file_and_the_model_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle(copy_golden(tmp_path))
    adapter = tmp_path / "trained.safetensors"
    save_trained(bundle, adapter)

    run(bundle.folder, "--samples", FORTY, "--adapter", adapter, "--max-loss", "0.1", "--json", "-")

    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["schema"], report["command"]) == ("edgefl.report/1", "calibrate")
    found = read_calibration(bundle, bundle.adapter(adapter))
    assert found is not None
    assert report["settings"] == {
        "samples": FORTY,
        "num_samples": 40,
        "max_loss": 0.1,
        "bundle": bundle.manifest.bundle_id,
        "adapter_sha256": found.adapter_sha256,
        "model": "golden",
    }
    by_exit = {(r["name"], r["labels"]["exit"]): r for r in report["records"] if "exit" in r.get("labels", {})}
    samples, labels = forty()
    for prediction, fitted in zip(trained_model().infer(samples), found.exits, strict=True):
        assert fitted.accuracy == pytest.approx((prediction.labels == labels).mean())
        for name in ("accuracy", "temperature", "threshold"):
            assert by_exit[name, prediction.exit_index]["value"] == getattr(fitted, name)
    errors = {
        (r["labels"]["exit"], r["labels"]["calibrated"]): r["value"]
        for r in report["records"]
        if r["name"] == "expected_calibration_error"
    }
    for e in found.exits:
        assert errors[e.exit_index, False] == e.calibration_error_before
        assert errors[e.exit_index, True] == e.calibration_error_after
    check_sums(report["records"], by_exit)
    assert "always exit 2: " in err
    assert "Two-fold cross-validated on 40 samples" in err


def check_sums(records: list[dict[str, Any]], by_exit: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Check that shares, times and accuracies of the thresholds fit each other."""
    whole = {r["name"]: r["value"] for r in records if "labels" not in r}
    shares = [by_exit["stops", e]["value"] for e in EXITS]
    times = [by_exit["exit_ms", e]["value"] for e in EXITS]
    assert sum(shares) == pytest.approx(1.0)
    assert times == sorted(times)
    mean = sum(share * ms for share, ms in zip(shares, times, strict=True))
    assert whole["policy_cost_ms"] == pytest.approx(mean)
    assert whole["deepest_cost_ms"] == times[-1]
    assert whole["deepest_accuracy"] == by_exit["accuracy", 2]["value"]
    assert whole["policy_accuracy"] >= whole["deepest_accuracy"] - 0.1 - 1e-9
    assert whole["cost_ratio"] == pytest.approx(whole["policy_cost_ms"] / times[-1])
    frontier = [(r["labels"]["cost_ms"], r["value"]) for r in records if r["name"] == "frontier_accuracy"]
    assert (whole["policy_cost_ms"], whole["policy_accuracy"]) in frontier
    assert frontier == sorted(frontier)


def test_a_folder_of_images_is_answered_and_file_and_picture_lie_beside_the_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle(copy_golden(tmp_path))
    before = files(bundle.folder)

    run(bundle.folder, "--samples", image_folder(tmp_path / "photos", 23))

    out, err = capsys.readouterr()
    drawn = {"calibration.png"} if find_spec("matplotlib") else set()
    assert files(bundle.folder) - before == {"calibration.json"} | drawn
    assert ("pip install 'edgefl[plot]'" in err) == (not drawn)
    assert "threshold" in out
    found = read_calibration(Bundle(bundle.folder), bundle.adapter())
    assert found is not None
    assert found.num_samples == 23


def test_a_second_calibration_replaces_the_first(tmp_path: Path) -> None:
    bundle = Bundle(copy_golden(tmp_path))
    save_trained(bundle, tmp_path / "trained.safetensors")
    run(bundle.folder, "--samples", FORTY, "--adapter", tmp_path / "trained.safetensors")

    run(bundle.folder, "--samples", FORTY)

    assert read_calibration(bundle, bundle.adapter()) is not None
    assert read_calibration(bundle, bundle.adapter(tmp_path / "trained.safetensors")) is None


def refused(bundle: Path, error: type[EdgeFLError], reason: str, *arguments: str | Path) -> None:
    """Run the command, which must fail and leave nothing beside the bundle."""
    before = files(bundle)
    with pytest.raises(error, match=reason):
        run(bundle, *arguments)
    assert files(bundle) == before


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("nineteen", "there are 19 samples, expected at least 20 that no training has seen; name a folder with more"),
        ("too_large", r"samples are of shape \(1, 20, 20\), expected \(1, 16, 16\)"),
        ("with_a_hole", "'samples' has NaN or infinite values; clean the samples"),
        ("none", "has no attribute 'none'"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(tmp_path: Path, function: str, reason: str) -> None:
    refused(copy_golden(tmp_path), SamplesError, reason, "--samples", f"tests.calibrate.held_out:{function}")


def test_an_answer_that_is_no_number_is_refused(tmp_path: Path) -> None:
    bundle = Bundle(copy_golden(tmp_path))
    tensors = trained_adapter()
    tensors["head.mlp.fc2.weight"][:] = np.finfo(np.float32).max
    adapter = Adapter(bundle_id=bundle.manifest.bundle_id, version=1, round=1, tensors=tensors)
    adapter.save(bundle.folder / "adapter.safetensors", bundle.manifest.adapter.header_bytes)

    reason = "sample 0, counted from 0, is answered with NaN or infinite logits; remove it, or use an earlier adapter"
    refused(bundle.folder, SamplesError, reason, "--samples", FORTY)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    photos = image_folder(tmp_path / "photos", 30)
    (photos / "4" / "29.png").write_bytes(b"no picture")

    refused(copy_golden(tmp_path), SamplesError, r"29\.png cannot be read as an image", "--samples", photos)


@pytest.mark.parametrize("name", ["calibration.json", "calibration.png"])
def test_a_file_that_cannot_be_written_is_refused_before_the_samples_are_looked_for(tmp_path: Path, name: str) -> None:
    bundle = copy_golden(tmp_path)
    (bundle / name).mkdir()

    refused(bundle, StorageError, f"{name}: it is no regular file", "--samples", tmp_path / "nowhere")


def test_the_adapter_of_another_bundle_and_a_folder_that_is_no_bundle_are_refused(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    other = Adapter(bundle_id="b" * 64, version=1, round=1, tensors=trained_adapter())
    other.save(tmp_path / "other.safetensors", Bundle(bundle).manifest.adapter.header_bytes)

    options = ["--samples", FORTY, "--adapter", tmp_path / "other.safetensors"]
    refused(bundle, AdapterLayoutError, "belongs to bundle 'b{64}'", *options)
    refused(tmp_path, NotABundleError, "is no bundle", "--samples", FORTY)


@pytest.mark.parametrize("loss", ["nan", "-0.1", "1.5"])
def test_a_loss_that_is_no_share_is_a_usage_error(loss: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is not in the range 0<=x<=1|is no finite number"):
        run("nowhere", "--samples", FORTY, "--max-loss", loss)
