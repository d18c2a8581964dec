"""What each exit costs on this device: passes worked out by hand, and a real one."""

from __future__ import annotations

import pytest

from edgefl.policy import ExitCost
from edgefl.predict.costs import exit_costs, measure_costs
from tests.golden_bundle import trained_model


def test_a_cost_is_the_sum_of_the_median_times_from_one_exit_to_the_next() -> None:
    # To exit 0: 1, 2, 2 ms; on to exit 3: 3, 3, 10 ms; on to exit 5: 20, 4, 5 ms.  A pause of the system in two of the
    # three passes falls between different exits: 2, 2 + 3 and 2 + 3 + 5 ms, though the median pass took 17 ms.
    passes = [[0.001, 0.004, 0.024], [0.002, 0.005, 0.009], [0.002, 0.012, 0.017]]

    costs = exit_costs((0, 3, 5), passes, None)

    assert [cost.exit_index for cost in costs] == [0, 3, 5]
    assert [cost.milliseconds for cost in costs] == pytest.approx([2.0, 5.0, 10.0])
    assert [cost.millijoules for cost in costs] == [None, None, None]


def test_an_exit_has_the_share_of_one_pass_s_energy_that_it_has_of_its_time() -> None:
    # 80 mJ in two passes are 40 mJ in one; exit 0 takes 1 of 4 ms.
    costs = exit_costs((0, 5), [[0.001, 0.004], [0.001, 0.004]], 80.0)

    assert [cost.millijoules for cost in costs] == pytest.approx([10.0, 40.0])


def test_every_exit_of_a_model_is_measured_and_deeper_ones_cost_no_less() -> None:
    costs = measure_costs(trained_model(), repetitions=3)

    assert all(isinstance(cost, ExitCost) for cost in costs)
    assert [cost.exit_index for cost in costs] == [0, 1, 2]
    assert 0 < costs[0].milliseconds <= costs[1].milliseconds <= costs[2].milliseconds
