"""The paper's Table 7 beside what was measured, and when the two may be compared at all."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgefl.bundle import Bundle
from edgefl.bundle.manifest import Cost, Manifest
from edgefl.cli import main
from edgefl.core.report import Label, Record
from edgefl.errors import BadInputError
from edgefl.measure.paper import FLOPS, FROZEN_PEAK, PARAMS, PEAK, check_setting, compare_memory, paper_records
from edgefl.measure.paper_table import print_paper
from tests.golden_bundle import GOLDEN

MB = 1_000_000


def deit_small(**different: Any) -> Manifest:
    """Return the manifest of a bundle that says it is DeiT-S at 160 pixels with 12 exits."""
    facts = {"image_size": 160, "patch_size": 16, "channels": 3, "width": 384, "blocks": 12, "mlp_width": 1536}
    golden = Bundle(GOLDEN).manifest
    exits = different.pop("exits", list(range(12)))
    return msgspec.structs.replace(
        golden, model=msgspec.structs.replace(golden.model, **(facts | different)), exits=exits
    )


def measured(exit_index: int, peak: int, baseline: int) -> list[Record]:
    labels: dict[str, Label] = {"exit": exit_index, "mode": "train", "batch": 10, "memory": "lean"}
    return [
        Record(name="peak_rss", unit="byte", value=peak, labels=labels),
        Record(name="baseline_rss", unit="byte", value=baseline, labels=labels),
    ]


def test_the_rows_have_the_paper_s_values_at_both_ends() -> None:
    ends = {row.name: (row.values[0], row.values[11], len(row.values)) for row in (FLOPS, PARAMS, PEAK, FROZEN_PEAK)}
    assert ends == {
        "FLOPs (GB)": (0.21, 2.67, 12),
        "Params (MB)": (2.54, 22.41, 12),
        "Mem peak (MB)": (67, 670, 12),
        "Mem peak frozen (MB)": (47, 426, 12),
    }


def test_exactly_the_two_slips_leave_the_line_of_the_flops_row_and_their_corrections_are_on_it() -> None:
    # 0.21 at exit 0 and 2.07 at exit 10: 0.186 an exit.
    line = [0.21 + 0.186 * e for e in range(12)]

    off = {e for e in range(12) if abs(FLOPS.values[e] - line[e]) > 0.02}

    assert off == set(FLOPS.slips) == {3, 11}
    assert FLOPS.slips == pytest.approx({e: line[e] for e in off}, abs=0.02)


def test_the_whole_table_is_in_the_report_as_printed_with_its_slips_named() -> None:
    records = {(record.labels["row"], record.labels["exit"]): record for record in paper_records()}

    assert len(records) == 4 * 12
    assert {(record.name, record.labels["source"]) for record in records.values()} == {("table_7", "paper")}
    assert records["FLOPs (GB)", 10].value == 2_070_000_000
    assert records["Mem peak frozen (MB)", 11].value == 426 * MB
    assert records["Mem peak frozen (MB)", 11].unit == "byte"
    assert "a slip, about 2.27 is meant" in (records["FLOPs (GB)", 11].method or "")
    assert "slip" not in (records["FLOPs (GB)", 10].method or "")
    assert "does not explain" in (records["Params (MB)", 5].method or "")


def test_the_net_peak_is_compared_with_the_frozen_row() -> None:
    ratios = compare_memory([*measured(4, 142 * MB, 57 * MB), *measured(11, 270 * MB, 57 * MB)])

    # 85 of 170 and 213 of 426.
    assert [(record.name, record.value) for record in ratios] == [("peak_net_ratio", 0.5), ("peak_net_ratio", 0.5)]
    assert ratios[1].labels == {"exit": 11, "mode": "train", "batch": 10, "memory": "lean", "against": "paper"}


@pytest.mark.parametrize(
    ("different", "mode", "batch", "said"),
    [
        ({"image_size": 224}, "train", 10, "image_size 224 instead of 160"),
        ({"width": 192}, "train", 10, "width 192 instead of 384"),
        ({"blocks": 24}, "train", 10, "blocks 24 instead of 12"),
        ({"exits": [2, 5, 8, 11]}, "train", 10, "exits [2, 5, 8, 11] instead of 0 to 11"),
        ({}, "infer", 10, "--mode infer instead of train"),
        ({}, "train", 4, "--batch-size 4 instead of 10"),
    ],
)
def test_another_setting_is_refused_by_what_differs(
    different: dict[str, Any], mode: str, batch: int, said: str
) -> None:
    with pytest.raises(BadInputError) as refused:
        check_setting(deit_small(**different), mode, batch)

    assert f"here: {said}. Use --mode train --batch-size 10" in str(refused.value)


def test_the_papers_setting_is_taken() -> None:
    check_setting(deit_small(), "train", 10)


def test_the_command_refuses_another_bundle_before_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["measure", str(GOLDEN), "--paper"])

    out, err = capsys.readouterr()
    assert (end.value.code, out) == (3, "")
    assert "Table 7 of the paper is of training DeiT-S at 160 x 160 pixels, batch 10; here: image_size 16" in err
    assert "--mode" not in err.partition("Use --mode")[0]  # --paper alone means training


def test_the_table_stands_beside_the_measured_exits(capsys: pytest.CaptureFixture[str]) -> None:
    costs = {
        f"infer/{e}": Cost(macs=(e + 1) * 10**8, parameters=(e + 5) * MB, trainable_parameters=0, planned_bytes=0)
        for e in range(12)
    }

    print_paper(measured(11, 270 * MB, 57 * MB), costs, to_stderr=False)

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["3", "0.67*", "0.40", "7.96", "8.00", "236", "134"] in rows
    assert ["11", "2.67*", "1.20", "22.41", "16.00", "670", "426", "213", "0.50"] in rows
    assert ["10", "2.07", "1.10", "20.60", "15.00", "638", "389"] in rows
