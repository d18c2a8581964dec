"""When to stop deepening, case by case as Kotlin reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgefl.core.signals import Signals
from edgefl.policy import ExitCost, Request, Rules, choose_exit, why_stop

CASES = json.loads((Path(__file__).parents[1] / "golden" / "stopping.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_each_case_of_the_golden_file_comes_out_as_written(case: Mapping[str, Any]) -> None:
    exits = range(case["exits"]) if isinstance(case["exits"], int) else case["exits"]
    costs = [ExitCost(exit_index=e, milliseconds=10.0 * (e + 1)) for e in exits]
    request = msgspec.convert(case["request"], Request, strict=False)
    decision = choose_exit(costs, Signals(), request, msgspec.convert(case["rules"], Rules))

    reason = why_stop(decision, costs, request, case["exit_index"], case["confidence"], case["elapsed_ms"])

    assert (reason.rule if reason else None) == case["expected"]
    assert reason is None or reason.text


def test_case_names_are_unlike() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES)
