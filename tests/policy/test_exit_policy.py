"""The rule that picks an exit, case by case as Kotlin reads them, and what holds for all cases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.core.signals import Signals
from edgefl.policy import ExitCost, Request, Rules, choose_exit

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "exit_policy.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in GOLDEN["cases"]}


def costs(exits: int | list[int], *, energy: bool = False) -> list[ExitCost]:
    """Exit e takes 10 (e + 1) ms, and as many mJ where there is a meter."""
    indices = range(exits) if isinstance(exits, int) else exits
    return [
        ExitCost(exit_index=e, milliseconds=10.0 * (e + 1), millijoules=10.0 * (e + 1) if energy else None)
        for e in indices
    ]


@pytest.mark.parametrize("name", CASES)
def test_each_case_of_the_golden_file_comes_out_as_written(name: str) -> None:
    case: Mapping[str, Any] = CASES[name]
    decision = choose_exit(
        costs(case["exits"], energy=case["energy"]),
        msgspec.convert(case["signals"], Signals),
        msgspec.convert(case["request"], Request, strict=False),
        msgspec.convert(case["rules"], Rules),
        case["previous"],
    )

    found = {
        "exit_index": decision.exit_index,
        "thresholds": {str(exit_index): value for exit_index, value in decision.thresholds.items()},
        "rules": [reason.rule for reason in decision.reasons],
    }
    assert found == case["expected"]
    assert all(reason.text for reason in decision.reasons)


def test_every_exit_is_chosen_by_some_case() -> None:
    chosen = {case["expected"]["exit_index"] for case in CASES.values() if case["exits"] == 12}
    assert chosen == set(range(12))


def test_case_names_are_unlike() -> None:
    assert len(CASES) == len(GOLDEN["cases"])


def walk(charges: list[float]) -> list[int]:
    """Choose again and again, as a device does."""
    chosen: list[int] = []
    for charge in charges:
        signals = Signals(charge=charge, charging=False)
        previous = chosen[-1] if chosen else None
        chosen.append(choose_exit(costs(12), signals, Request(), Rules(), previous).exit_index)
    return chosen


def test_a_discharge_from_100_to_5_percent_visits_every_exit_and_never_deepens() -> None:
    chosen = walk([percent / 100 for percent in range(100, 4, -1)])

    assert chosen == sorted(chosen, reverse=True)
    assert set(chosen) == set(range(12))


@given(st.floats(0.0, 1.0), st.lists(st.floats(-0.024, 0.024), min_size=2, max_size=40))
def test_noise_below_half_the_step_never_makes_it_deeper(charge: float, noise: list[float]) -> None:
    chosen = walk([min(max(charge + each, 0.0), 1.0) for each in noise])

    assert chosen == sorted(chosen, reverse=True)


signals = st.builds(
    Signals,
    charge=st.none() | st.floats(0, 1),
    charging=st.none() | st.booleans(),
    power_save=st.none() | st.booleans(),
    celsius=st.none() | st.floats(-20, 120),
    throttled=st.none() | st.booleans(),
)
requests = st.builds(Request, deadline_ms=st.none() | st.floats(0, 200), energy_mj=st.none() | st.floats(0, 200))


@given(signals, requests, st.none() | st.integers(0, 11))
def test_knowing_less_never_makes_it_shallower(known: Signals, request: Request, previous: int | None) -> None:
    decided = choose_exit(costs(12), known, request, Rules(), previous).exit_index
    # Charging lifts limits: not to know it is another matter.
    for name in ("charge", "power_save", "celsius", "throttled"):
        less = msgspec.structs.replace(known, **{name: None})
        assert choose_exit(costs(12), less, request, Rules(), previous).exit_index >= decided


def test_without_measured_costs_a_deadline_is_kept_by_the_shallowest_exit() -> None:
    unmeasured = [ExitCost(exit_index=0, milliseconds=10.0), ExitCost(exit_index=1)]

    decision = choose_exit(unmeasured, Signals(), Request(deadline_ms=1000.0), Rules())

    assert decision.exit_index == 0
    assert decision.reasons[0].text == "1000 ms are left for the answer, and no costs have been measured yet"
    assert choose_exit(unmeasured, Signals(), Request(), Rules()).exit_index == 1


@given(signals, requests, st.none() | st.integers(0, 11), st.lists(st.integers(0, 11), min_size=1, unique=True))
def test_the_exit_is_one_there_is_and_the_first_reason_names_it(
    known: Signals, request: Request, previous: int | None, exits: list[int]
) -> None:
    decision = choose_exit(costs(sorted(exits)), known, request, Rules(), previous)

    assert decision.exit_index in exits
    if decision.exit_index < max(exits):
        assert decision.reasons[0].exit_index == decision.exit_index
    else:
        assert decision.reasons == ()
