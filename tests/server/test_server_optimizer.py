"""The server's momentum moves what was trained and leaves alone what was not."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgefl_server.rounds.aggregate import Aggregation, Average, FloatArray
from edgefl_server.rounds.server_optimizer import momentum_step


def floats(*values: float) -> dict[str, FloatArray]:
    return {"w": np.array(values, dtype=np.float32)}


def average(old: dict[str, FloatArray], parts: dict[str, FloatArray]) -> Average:
    aggregation = Aggregation(old)
    aggregation.add(parts, weight=1)
    return aggregation.result()


def test_two_rounds_worked_out_by_hand() -> None:
    first, momentum = momentum_step(floats(1), average(floats(1), floats(3)), {}, beta=0.5)
    assert (first["w"].tolist(), momentum["w"].tolist()) == ([3], [2])  # m = 0 + (3 - 1), value = 1 + 2
    second, momentum = momentum_step(first, average(first, floats(4)), momentum, beta=0.5)
    assert (second["w"].tolist(), momentum["w"].tolist()) == ([5], [2])  # m = 0.5·2 + (4 - 3), value = 3 + 2


def test_an_element_nobody_covered_keeps_its_value_and_its_momentum() -> None:
    old, momentum = floats(1, 10), floats(4, 8)
    values, kept = momentum_step(old, average(old, {"w[0:1]": floats(3)["w"]}), momentum, beta=0.5)
    assert values["w"].tolist() == [5, 10]  # 0.5·4 + (3 - 1) = 4, 1 + 4 = 5; the second element stays
    assert kept["w"].tolist() == [4, 8]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2), st.floats(-1e6, 1e6, width=32))
def test_without_momentum_it_is_plain_averaging_to_the_last_bit(old: list[float], new: float) -> None:
    before = floats(*old)
    parts = {"w[0:1]": floats(new)["w"]}
    values, _ = momentum_step(before, average(before, parts), {}, beta=0.0)
    assert values["w"].tolist() == [np.float32(new), np.float32(old[1])]
    assert values["w"].dtype == np.float32
