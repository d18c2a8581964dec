"""`edgefl plan` on a bundle whose costs are written down here."""

from __future__ import annotations

import json
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from edgefl.bundle import Bundle
from edgefl.cli import main
from edgefl.core.sizes import ByteSizes
from edgefl.plan.command import BASELINE, GFLOPS
from tests.golden_bundle import GOLDEN, Fields, change_manifest, copy_golden
from tests.toy_bundle import write_toy_bundle

RECORDS = Path(__file__).parent.parent.parent / "benchmarks" / "records"
MB = 1_000_000

# Planned MB by knob, and mega multiply-accumulates, of the exits 0, 1 and 2.
PLANNED = {"lean": (40, 50, 60), "balanced": (60, 80, 100), "fast": (100, 150, 200)}
MACS = (100, 300, 500)
# Two, three and four million of ten, eleven and twelve million parameters are trained.
TRAINED = (2, 3, 4)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a bundle with these costs."""
    costs: dict[str, dict[str, int]] = {}
    for e in range(3):
        common = {"macs": MACS[e] * MB, "parameters": (10 + e) * MB, "trainable_parameters": TRAINED[e] * MB}
        costs |= {f"train/{e}/{memory}": {**common, "planned_bytes": MB * PLANNED[memory][e]} for memory in PLANNED}
        costs[f"train/{e}"] = costs[f"train/{e}/balanced"]

    def change(fields: Fields) -> None:
        fields["costs"].update(costs)

    folder = copy_golden(tmp_path)
    change_manifest(folder, change)
    return folder


def plan(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Run the command; return its exit code and what it says, in lines of any length."""
    code: object = 0
    try:
        main(["plan", *map(str, arguments)])
    except SystemExit as end:
        code = end.code
    assert isinstance(code, int)
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), err


def planned(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    main(["plan", *map(str, arguments), "--json", "-"])
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_the_report_has_the_exit_and_what_it_takes_for_each_budget(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = planned(
        capsys, bundle, "--memory-budget", "120MB,170MB", "--memory-budget", "1GiB", "--step-seconds", "0.8"
    )

    # Exit 2 takes 2 operations x 500 M x 10 samples at 10 GFLOP/s, a whole second; exit 1 takes 0.6.
    # Of exit 1, 57 + 50 MB fit 120, 57 + 80 fit 170, and 57 + 150 fit more than that.
    expected: list[dict[str, Any]] = []
    for budget, memory in ((120 * MB, "lean"), (170 * MB, "balanced"), (2**30, "fast")):
        labels = {"memory_budget": budget, "memory": memory, "limit": "time"}
        counted = {"labels": labels, "method": "counted"}
        expected += [
            {"name": "planned_exit", "unit": "1", "value": 1, "labels": labels},
            {"name": "planned_bytes", "unit": "byte", "value": PLANNED[memory][1] * MB, **counted},
            # `fast` packs its frozen weights, which are among its planned bytes.
            {"name": "mapped_weights", "unit": "byte", "value": 0 if memory == "fast" else 4 * 8 * MB, **counted},
            {"name": "upload_bytes", "unit": "byte", "value": 4 * 3 * MB, **counted},
            {"name": "step_seconds", "unit": "s", "value": 0.6, **counted, "method": "counted at assumed speed"},
        ]
    assert report["records"] == expected
    assert report["command"] == "plan"
    assert report["settings"] == {
        "bundle": Bundle(GOLDEN).manifest.bundle_id,
        "model": "golden",
        "exits": [0, 1, 2],
        "batch": 10,
        "memory_budgets": [120 * MB, 170 * MB, 2**30],
        "upload_budget": None,
        "step_seconds": 0.8,
        "baseline": 57 * MB,
        "gflops": 10.0,
    }


def test_time_grows_with_the_batch_and_falls_with_the_speed_and_memory_does_not_change(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = ("--memory-budget", "1GB")
    plain = {r["name"]: r["value"] for r in planned(capsys, bundle, *budget)["records"]}
    batch = {r["name"]: r["value"] for r in planned(capsys, bundle, *budget, "--batch-size", "40")["records"]}
    speed = {r["name"]: r["value"] for r in planned(capsys, bundle, *budget, "--gflops", "40")["records"]}

    assert (plain["step_seconds"], batch["step_seconds"], speed["step_seconds"]) == (1.0, 4.0, 0.25)
    assert plain["planned_bytes"] == batch["planned_bytes"] == speed["planned_bytes"] == 200 * MB


def test_the_baseline_counts_and_is_said(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = plan(capsys, bundle, "--memory-budget", "101MB", "--baseline", "1MB")

    assert code == 0
    assert " 101.0 2 balanced 100.0 32.0 16.0 1.000 nothing: deepest exit " in out
    assert "compared with planned bytes and 1.0 MB for Python and the imports (--baseline)" in out
    assert "Not counted: mapped weights" in out
    assert "Seconds assume 10 GFLOP/s (--gflops) with every knob, and are not measured." in out


def test_only_the_exits_that_are_named_are_chosen_from(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = planned(capsys, bundle, "--memory-budget", "1GB", "--exits", "0-1")

    assert report["records"][0]["value"] == 1
    assert report["records"][0]["labels"]["limit"] == "none"
    assert report["settings"]["exits"] == [0, 1]


def test_a_budget_that_affords_no_exit_says_which_one_would_and_that_one_does(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = plan(capsys, bundle, "--memory-budget", "90MB", "--upload-budget", "1MB", "--baseline", "57.04MB")

    assert code == 4
    needs = "the smallest budget that does has 97.1 MB of memory and 8.0 MB of upload (exit 0, lean)"
    assert f"90.0 MB affords no exit: {needs}" in out
    _, out, _ = plan(capsys, bundle, "--memory-budget", "1GB,2GB", "--upload-budget", "1MB")
    assert out.count("no exit: ") == out.count("more memory would afford no exit: ") == 1
    assert err == f"edgefl: no budget affords an exit: {needs}\n"

    code, _, err = plan(
        capsys, bundle, "--memory-budget", "97.1MB", "--upload-budget", "8MB", "--baseline", "57.04MB", "--gflops", "1"
    )
    assert (code, err) == (0, "")


def test_one_budget_that_affords_an_exit_is_enough(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = planned(capsys, bundle, "--memory-budget", "1MB,100MB")

    assert {record["labels"]["memory_budget"] for record in report["records"]} == {100 * MB}


def test_a_report_is_written_though_no_budget_affords_an_exit(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, _ = plan(capsys, bundle, "--memory-budget", "1MB", "--json", tmp_path / "report.json")

    report = json.loads((tmp_path / "report.json").read_text())
    assert code == 4
    assert report["records"] == []
    assert report["settings"]["memory_budgets"] == [1 * MB]


def test_without_a_budget_several_are_shown(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(capsys, bundle)["settings"]["memory_budgets"] == [size * MB for size in (64, 100, 150, 250, 500)]


def test_a_bundle_without_knobs_is_planned_as_balanced(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_manifest(bundle, lambda fields: fields["variants"].clear())

    report = planned(capsys, bundle, "--memory-budget", "157MB")

    assert report["records"][0]["labels"]["memory"] == "balanced"
    assert report["records"][1]["value"] == 100 * MB


def test_a_bundle_that_trains_nothing_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = plan(capsys, write_toy_bundle(tmp_path / "toy"))

    assert (code, out) == (3, "")
    assert re.fullmatch(r"edgefl: the bundle in \S+ has no training program to plan; export it again\n", err)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a bundle's folder or a --model, one of the two"),
        ([str(GOLDEN), "--model", "deit_small_patch16_224"], "name a bundle's folder or a --model, one of the two"),
        ([str(GOLDEN), "--img-size", "160"], "--img-size describes a --model"),
        ([str(GOLDEN), "--parallel-adapters", "0"], "--parallel-adapters describes a --model"),
        ([str(GOLDEN), "--memory-budget", "150"], "'150' is no size"),
        ([str(GOLDEN), "--upload-budget", "1MB,2MB"], "is more than one size"),
        ([str(GOLDEN), "--gflops", "nan"], "nan is no number above 0"),
        ([str(GOLDEN), "--step-seconds", "0"], "0.0 is no number above 0"),
        ([str(GOLDEN), "--batch-size", "0"], "0 is not in the range"),
    ],
)
def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    code, out, err = plan(capsys, *arguments)

    assert (code, out) == (2, "")
    assert said in err


def test_an_exit_the_bundle_does_not_have_ends_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = plan(capsys, GOLDEN, "--exits", "0,7")

    assert code == 3
    assert "exit 7 does not exist: bundle bundle has the exits 0-2" in err


def test_the_assumed_baseline_and_speed_are_those_of_the_stored_records() -> None:
    records = [
        record for path in RECORDS.glob("measure_*_train_*.json") for record in json.loads(path.read_text())["records"]
    ]
    baselines = [record["value"] for record in records if record["name"] == "baseline_rss"]
    (baseline,) = ByteSizes().convert(BASELINE, None, None)
    assert max(baselines) == pytest.approx(baseline, rel=0.05)

    macs = {str(record["labels"]): record["value"] for record in records if record["name"] == "macs"}
    speeds = [
        2 * macs[str(record["labels"])] * record["labels"]["batch"] / (record["value"] / 1000) / 1e9
        for record in records
        if record["name"] == "latency"
    ]
    assert min(speeds) > GFLOPS


def test_the_exporter_is_found_by_entry_point() -> None:
    (point,) = entry_points(group="edgefl.models")

    assert (point.name, point.value) == ("costs", "edgefl_export.model_costs:model_costs")
