"""Updates are averaged element by element over the clients that trained each element."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.core.tensor_slice import TensorSlice
from edgefl_server.rounds.aggregate import Aggregation, FloatArray, Untouched
from tests.toy_bundle import EXITS, toy_coverage, toy_tensors

OLD = {"w": np.array([10, 20, 30, 40], dtype=np.float32)}


def floats(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float32)


def constant_update(exit_index: int, value: float) -> dict[str, FloatArray]:
    """What a client of this exit sends when every value it reaches became `value`."""
    parts = [TensorSlice.parse(key) for key in toy_coverage(exit_index)]
    tensors = toy_tensors()
    return {part.key: np.full(part.shape(tensors[part.name].shape), value, dtype=np.float32) for part in parts}


def test_a_client_that_did_not_hold_a_parallel_adapter_is_not_in_its_denominator() -> None:
    aggregation = Aggregation(toy_tensors())
    for exit_index in EXITS:  # 0, 2, 5, 8, 11 send 1, 3, 6, 9, 12
        aggregation.add(constant_update(exit_index, exit_index + 1), weight=1)
    values = aggregation.result().values

    assert np.all(values["head.weight"] == np.float32((1 + 3 + 6 + 9 + 12) / 5))
    assert np.all(values["parallel.0.weight"] == np.float32((1 + 3 + 6 + 9 + 12) / 5))
    # Block 3 was reached by exits 5, 8 and 11 only; over all five clients it would be 27 / 5.
    assert np.all(values["parallel.3.weight"] == np.float32((6 + 9 + 12) / 3))
    assert np.all(values["parallel.11.weight"] == 12)


def test_coverage_is_counted_for_each_row_of_a_tensor_and_not_for_the_tensor() -> None:
    aggregation = Aggregation(toy_tensors())
    for exit_index in EXITS:
        aggregation.add(constant_update(exit_index, exit_index + 1), weight=1)
    positions = aggregation.result().values["positions"]

    # Exit e covers the rows 0..e+1: row 1 is everybody's, row 2 not exit 0's, row 7 that of 8 and 11, row 12 of 11.
    assert positions[1, 0] == np.float32((1 + 3 + 6 + 9 + 12) / 5)
    assert positions[2, 0] == np.float32((3 + 6 + 9 + 12) / 4)
    assert positions[7, 0] == np.float32((9 + 12) / 2)
    assert positions[12, 0] == 12


def test_columns_are_counted_as_rows_are() -> None:
    old = {"w": np.zeros((2, 3), dtype=np.float32)}
    aggregation = Aggregation(old)
    aggregation.add({"w[:,0:2]": np.full((2, 2), 4, dtype=np.float32)}, weight=1)
    aggregation.add({"w[0:1]": np.full((1, 3), 8, dtype=np.float32)}, weight=1)
    assert aggregation.result().values["w"].tolist() == [[6, 6, 8], [4, 4, 0]]


@pytest.mark.parametrize(
    ("untouched", "expected"),
    [
        # One client (weight 1) sends 2 for elements 0 and 1, another (weight 3) sends 6 for 1 and 2; element 3 is
        # nobody's.  The old values are 10, 20, 30, 40 and all weights together are 4.
        ("keep", [2 / 1, (2 + 18) / 4, 18 / 3, 40]),
        ("mix_old", [(2 + 3 * 10) / 4, (2 + 18) / 4, (18 + 1 * 30) / 4, 40]),
        ("zero", [2 / 4, (2 + 18) / 4, 18 / 4, 0]),
    ],
)
def test_an_absent_client_counts_nothing_the_old_value_or_zero(untouched: Untouched, expected: list[float]) -> None:
    aggregation = Aggregation(OLD, untouched)
    aggregation.add({"w[0:2]": floats(2, 2)}, weight=1)
    aggregation.add({"w[1:3]": floats(6, 6)}, weight=3)
    assert aggregation.result().values["w"].tolist() == expected


def test_an_element_is_touched_where_a_client_counts_for_it() -> None:
    touched = {}
    for untouched in ("keep", "mix_old", "zero"):
        aggregation = Aggregation(OLD, untouched)
        aggregation.add({"w[1:3]": floats(1, 1)}, weight=2)
        touched[untouched] = aggregation.result().is_touched["w"].tolist()
    some, everywhere = [False, True, True, False], [True] * 4
    assert touched == {"keep": some, "mix_old": some, "zero": everywhere}


@pytest.mark.parametrize("untouched", ["keep", "mix_old", "zero"])
def test_without_any_update_nothing_changes(untouched: Untouched) -> None:
    average = Aggregation(OLD, untouched).result()
    assert average.values["w"].tolist() == OLD["w"].tolist()
    assert not average.is_touched["w"].any()


def test_a_delta_is_added_to_the_part_of_the_old_values_it_belongs_to() -> None:
    aggregation = Aggregation(OLD)
    aggregation.add({"w[1:3]": floats(1, 2)}, weight=1, reply="delta")  # 21, 32
    aggregation.add({"w[1:3]": floats(23, 30)}, weight=3)
    assert aggregation.result().values["w"].tolist() == [10, (21 + 3 * 23) / 4, (32 + 3 * 30) / 4, 40]


def test_an_update_is_not_kept_once_it_is_counted() -> None:
    aggregation = Aggregation(OLD)
    update = floats(1, 2, 3, 4)
    alive = weakref.ref(update)
    aggregation.add({"w": update}, weight=1)
    del update
    gc.collect()
    assert alive() is None


Clients = list[tuple[int, int, float]]
clients = st.lists(
    st.tuples(st.sampled_from(EXITS), st.integers(1, 500), st.floats(-8, 8, width=32)), min_size=1, max_size=6
)


@given(clients=clients, data=st.data(), untouched=st.sampled_from(["keep", "mix_old", "zero"]))
def test_the_order_in_which_replies_arrive_does_not_matter(
    clients: Clients, data: st.DataObject, untouched: Untouched
) -> None:
    def average(order: Clients) -> dict[str, FloatArray]:
        aggregation = Aggregation(toy_tensors(), untouched)
        for exit_index, weight, value in order:
            aggregation.add(constant_update(exit_index, value), weight)
        return dict(aggregation.result().values)

    one, other = average(clients), average(data.draw(st.permutations(clients)))
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], rtol=1e-6, atol=1e-9)


@given(clients=clients, untouched=st.sampled_from(["keep", "mix_old", "zero"]))
def test_when_everybody_holds_everything_each_mode_is_plain_federated_averaging(
    clients: Clients, untouched: Untouched
) -> None:
    aggregation = Aggregation(toy_tensors(), untouched)
    for _, weight, value in clients:
        aggregation.add({name: array + np.float32(value) for name, array in toy_tensors().items()}, weight)
    weights = [weight for _, weight, _ in clients]
    for name, array in aggregation.result().values.items():
        stacked = np.stack([toy_tensors()[name] + np.float32(value) for _, _, value in clients]).astype(np.float64)
        np.testing.assert_allclose(array, np.average(stacked, axis=0, weights=weights), rtol=1e-6, atol=1e-6)
