"""Memory that runs of programs share."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgefl.runtime.buffers import Buffers, Placement
from edgefl.runtime.weights import FloatArray


def arrays(*sizes: int) -> list[FloatArray]:
    return [np.empty(size, np.float32) for size in sizes]


def test_arrays_are_claimed_all_or_none_of_them() -> None:
    buffers = Buffers()
    first, second, foreign = arrays(4, 4, 4)
    buffers.give_back([first, second])

    assert not buffers.claim([first, foreign])
    assert buffers.claim([first])
    assert not buffers.claim([first, second])
    assert buffers.claim([second])


def test_who_claims_all_leaves_none() -> None:
    buffers = Buffers()
    (array,) = arrays(4)
    buffers.give_back([array])

    assert buffers.claim_all() == [array]
    assert buffers.claim_all() == []
    assert not buffers.claim([array])


def test_a_place_left_is_used_again_for_what_fits_and_not_for_much_less() -> None:
    placement = Placement([])
    array = placement.take((3, 4))
    assert array.shape == (12,)
    assert array.dtype == np.float32
    placement.leave(array)

    assert placement.take((5,)) is not array  # less than half of it
    assert placement.take((2, 5)) is array


def test_what_is_too_small_when_something_is_missing_is_let_go() -> None:
    small, large, larger = arrays(8, 30, 90)
    placement = Placement([large, larger, small])

    assert placement.take((9,)) is not large  # more than twice as large

    assert list(placement.let_go.values()) == [small]
    assert placement.take((8,)) is not small
    assert placement.take((30,)) is large
    assert placement.unused == [larger]


def test_a_place_that_was_used_is_never_let_go() -> None:
    placement = Placement([])
    small = placement.take((8,))
    placement.leave(small)
    placement.take((9,))

    assert placement.let_go == {}
    assert placement.take((8,)) is small


def test_the_smallest_array_that_fits_is_taken() -> None:
    placement = Placement(arrays(16, 10, 12))
    assert [len(placement.take((10,))) for _ in range(3)] == [10, 12, 16]


def test_a_scalar_has_an_array_of_one() -> None:
    assert len(Placement([]).take(())) == 1


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=40), st.lists(st.integers(1, 40), max_size=5))
def test_no_two_tensors_that_live_at_once_have_the_same_place(
    comings: list[tuple[int, bool]], there_already: list[int]
) -> None:
    given_arrays = arrays(*there_already)
    placement, living = Placement(given_arrays), list[FloatArray]()
    for size, leaves in comings:
        array = placement.take((size,))
        assert len(array) >= size
        assert not any(array is other for other in living)
        living.append(array)
        if leaves:
            placement.leave(living.pop(0))

    accounted = {*placement.used, *placement.let_go, *map(id, placement.unused)}
    assert {id(array) for array in given_arrays} <= accounted
    assert not placement.used.keys() & placement.let_go.keys()
