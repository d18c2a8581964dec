"""`calibration.json`: what is written is read back, for the adapter it was made for and for no other."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefl.bundle import Adapter, Bundle
from edgefl.errors import BadInputError, StorageError
from edgefl.predict.calibration import (
    Calibration,
    ExitCalibration,
    FrontierPoint,
    calibration_path,
    confidence,
    read_calibration,
)
from tests.golden_bundle import GOLDEN, copy_golden, trained_adapter

Fields = dict[str, Any]


def a_calibration(bundle: Bundle, adapter: Adapter) -> Calibration:
    points = [FrontierPoint(cost_ms=1.5, accuracy=0.5), FrontierPoint(cost_ms=2.25, accuracy=0.75)]
    return Calibration(
        bundle_id=bundle.manifest.bundle_id,
        adapter_sha256=adapter.digest(),
        num_samples=20,
        max_loss=0.005,
        chosen=points[1],
        deepest=FrontierPoint(cost_ms=3.0, accuracy=0.75),
        frontier=points,
        exits=[
            ExitCalibration(
                exit_index=exit_index,
                temperature=1.25,
                threshold=threshold,
                accuracy=0.5,
                calibration_error_before=0.25,
                calibration_error_after=0.125,
            )
            for exit_index, threshold in ((0, 1.0), (1, 0.875), (2, 0.0))
        ],
    )


def changed(folder: Path, change: Callable[[Fields], object]) -> Bundle:
    """Write a calibration beside a copy of the bundle and let a function change its fields."""
    bundle = Bundle(copy_golden(folder))
    a_calibration(bundle, bundle.adapter()).write(bundle.folder)
    path = calibration_path(bundle.folder)
    fields = json.loads(path.read_bytes())
    change(fields)
    path.write_text(json.dumps(fields), encoding="utf-8")
    return bundle


def test_what_was_written_is_read_back_and_the_bundle_is_still_a_bundle(tmp_path: Path) -> None:
    bundle = Bundle(copy_golden(tmp_path))
    written = a_calibration(bundle, bundle.adapter())

    written.write(bundle.folder)

    again = Bundle(bundle.folder)
    assert read_calibration(again, again.adapter()) == written
    assert json.loads((bundle.folder / "calibration.json").read_bytes())["schema"] == "edgefl.calibration/1"


def test_a_bundle_without_the_file_has_no_calibration() -> None:
    bundle = Bundle(GOLDEN)
    assert read_calibration(bundle, bundle.adapter()) is None


def test_the_calibration_of_another_adapter_is_not_used_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle(copy_golden(tmp_path))
    a_calibration(bundle, bundle.adapter()).write(bundle.folder)
    other = replace(bundle.adapter(), tensors=trained_adapter())

    with caplog.at_level(logging.WARNING):
        assert read_calibration(bundle, other) is None

    assert "calibrated for another adapter; run edgefl calibrate again" in caplog.text


def test_the_digest_is_of_the_values_and_not_of_the_version() -> None:
    adapter = Bundle(GOLDEN).adapter()
    later = replace(adapter, version=3, round=4, tensors={n: np.array(a) for n, a in adapter.tensors.items()})

    assert later.digest() == adapter.digest()
    later.tensors["head.norm.weight"][0] += 1
    assert later.digest() != adapter.digest()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda fields: fields.update(schema="edgefl.calibration/2"), r"is damaged: Invalid enum value"),
        (lambda fields: fields.pop("exits"), r"is damaged: .* missing required field `exits`"),
        (lambda fields: fields.update(more=1), r"is damaged: .* unknown field `more`"),
        (lambda fields: fields["exits"][1].update(temperature=0.0), r"is damaged: Expected `float` >= 0.05"),
        (lambda fields: fields["exits"][1].update(threshold=1.5), r"is damaged: Expected `float` <= 1.0"),
        (lambda fields: fields["exits"].pop(0), r"has the exits \[1, 2\], the bundle has \[0, 1, 2\]"),
        (lambda fields: fields["exits"][2].update(threshold=0.5), r"has threshold 0.5 at the deepest exit, expected 0"),
        (lambda fields: fields.update(bundle_id="a" * 64), r"belongs to bundle a{64}, expected"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_its_name_with_the_next_action(
    tmp_path: Path, change: Callable[[Fields], object], reason: str
) -> None:
    bundle = changed(tmp_path, change)

    with pytest.raises(BadInputError, match=rf"calibration\.json {reason}.*; remove it, or run edgefl calibrate again"):
        read_calibration(bundle, bundle.adapter())


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"schema": "\xff"}', b"[" * 100_000], ids=["empty", "half", "no UTF-8", "deep"]
)
def test_bytes_that_are_no_document_are_refused(tmp_path: Path, content: bytes) -> None:
    bundle = Bundle(copy_golden(tmp_path))
    calibration_path(bundle.folder).write_bytes(content)

    with pytest.raises(BadInputError, match=r"calibration\.json is damaged: .*; remove it, or run"):
        read_calibration(bundle, bundle.adapter())


def test_a_folder_of_that_name_is_refused_and_so_is_writing_over_it(tmp_path: Path) -> None:
    bundle = Bundle(copy_golden(tmp_path))
    calibration_path(bundle.folder).mkdir()

    with pytest.raises(BadInputError, match=r"calibration\.json is no file; remove it"):
        read_calibration(bundle, bundle.adapter())
    with pytest.raises(StorageError, match="is no regular file"):
        a_calibration(bundle, bundle.adapter()).write(bundle.folder)


def test_confidence_is_the_largest_probability_at_a_temperature() -> None:
    # Two classes, 2 ln 3 apart: 9 / (9 + 1) at temperature 1, 3 / (3 + 1) at 2; equal logits give 1 / C.
    logits = np.array([[2 * np.log(3), 0.0], [5.0, 5.0]])

    assert confidence(logits, 1.0) == pytest.approx([0.9, 0.5])
    assert confidence(logits, 2.0) == pytest.approx([0.75, 0.5])


def test_confidence_stays_below_one_where_rounding_would_reach_it() -> None:
    # exp(-1000 / 0.05) is 0 in any floating point there is.
    (sure,) = confidence(np.array([[1000.0, 0.0]], np.float32), 0.05)

    assert 0.999999 < sure < 1.0
