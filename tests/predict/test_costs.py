"""What each exit costs on this device: passes worked out by hand, and a real one."""

from __future__ import annotations

import pytest

from edgefl.policy import ExitCost
from edgefl.predict.costs import exit_costs, measure_costs
from tests.golden_bundle import trained_model


def test_a_cost_is_the_median_of_the_passes_in_milliseconds() -> None:
    # Exit 0: 1, 2, 9 ms; exit 5: 4, 5, 20 ms, the last pass having been disturbed.
    costs = exit_costs((0, 5), [[0.001, 0.004], [0.009, 0.020], [0.002, 0.005]], None)

    assert [cost.exit_index for cost in costs] == [0, 5]
    assert [cost.milliseconds for cost in costs] == pytest.approx([2.0, 5.0])
    assert [cost.millijoules for cost in costs] == [None, None]


def test_an_exit_has_the_share_of_one_pass_s_energy_that_it_has_of_its_time() -> None:
    # 80 mJ in two passes are 40 mJ in one; exit 0 takes 1 of 4 ms.
    costs = exit_costs((0, 5), [[0.001, 0.004], [0.001, 0.004]], 80.0)

    assert [cost.millijoules for cost in costs] == pytest.approx([10.0, 40.0])


def test_every_exit_of_a_model_is_measured_and_deeper_ones_cost_no_less() -> None:
    costs = measure_costs(trained_model(), repetitions=3)

    assert all(isinstance(cost, ExitCost) for cost in costs)
    assert [cost.exit_index for cost in costs] == [0, 1, 2]
    assert 0 < costs[0].milliseconds <= costs[1].milliseconds <= costs[2].milliseconds
