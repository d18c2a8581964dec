"""A tier follows from what a device measured."""

from __future__ import annotations

import pytest

from edgefl.errors import RefusedError
from edgefl_server.rounds.tiers import decide_exit
from tests.server.toy_federation import ToyDevice

EXITS = [2, 5, 8]


@pytest.mark.parametrize(("affordable", "tier"), [(2, 2), (4, 2), (5, 5), (7, 5), (8, 8), (11, 8)])
def test_a_device_trains_the_deepest_exit_of_the_bundle_it_can_afford(affordable: int, tier: int) -> None:
    assert decide_exit(ToyDevice("a", affordable).properties(), "a", EXITS) == tier


def test_a_device_too_weak_for_the_shallowest_exit_is_refused_by_name_of_both() -> None:
    with pytest.raises(RefusedError, match="up to exit 1, the bundle's shallowest is 2"):
        decide_exit(ToyDevice("a", 1).properties(), "a", EXITS)


def test_a_device_with_another_bundle_is_refused() -> None:
    with pytest.raises(RefusedError, match="holds bundle 'b', this server trains 'a'"):
        decide_exit(ToyDevice("b", 11).properties(), "a", EXITS)
