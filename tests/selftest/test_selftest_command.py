"""`edgefl selftest` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgefl.bundle import Bundle
from edgefl.cli import main
from tests.golden_bundle import GOLDEN
from tests.selftest.tampered import with_constant


def test_a_device_that_is_right_gets_a_table_a_line_and_0(capsys: pytest.CaptureFixture[str]) -> None:
    main(["selftest", str(GOLDEN)])

    out, err = capsys.readouterr()
    assert "relative deviation, at most 1e-04" in out
    assert "this device computes what the exporter computed (12 programs, " in out
    assert "!" not in out
    assert err == ""


def test_the_report_has_a_record_for_each_exit_and_quantity(capsys: pytest.CaptureFixture[str]) -> None:
    main(["selftest", str(GOLDEN), "--json", "-"])

    out, err = capsys.readouterr()
    assert "this device computes what the exporter computed" in err
    report = json.loads(out)
    assert (report["schema"], report["command"]) == ("edgefl.report/1", "selftest")
    assert report["settings"]["bundle"] == Bundle(GOLDEN).manifest.bundle_id
    assert report["settings"]["tolerance"] == 1e-4
    assert len(report["settings"]["programs"]) == 12
    *deviations, seconds = report["records"]
    assert {(r["labels"]["exit"], r["labels"]["quantity"]) for r in deviations} == {
        (e, quantity) for e in (0, 1, 2) for quantity in ("logits", "loss", "gradient_norm")
    }
    assert {(r["name"], r["unit"]) for r in deviations} == {("selftest_deviation", "1")}
    assert all(0 <= record["value"] < 1e-5 for record in deviations)
    assert (seconds["name"], seconds["unit"]) == ("selftest_seconds", "s")


def test_a_device_that_is_wrong_ends_with_4_says_where_and_reports_it_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The first LayerNorm of a block has an epsilon of 1e-6.
    bundle, report = with_constant(tmp_path, "block_exit", 1e-6, 0.5), tmp_path / "report.json"

    with pytest.raises(SystemExit) as end:
        main(["selftest", str(bundle), "--json", str(report)])

    assert end.value.code == 4
    out, err = capsys.readouterr()
    assert " !" in out
    assert "this device computes" not in out
    assert err.startswith("edgefl: this device does not compute what the exporter computed: exit 0 logits ")
    assert "(infer/0)" in err
    assert "copy or export it again, or install another version of onnxruntime" in err
    records = json.loads(report.read_text(encoding="utf-8"))["records"]
    worst = max(r["value"] for r in records if r["name"] == "selftest_deviation")
    assert worst > 1e-4


@pytest.mark.parametrize("file", ["nothing", "block.onnx"])
def test_a_folder_that_is_no_bundle_ends_with_3(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["selftest", str(GOLDEN / file)])

    assert end.value.code == 3
    assert "is no bundle" in capsys.readouterr().err
