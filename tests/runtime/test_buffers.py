"""Buffers that calls of a program hand on."""

from __future__ import annotations

import numpy as np

from edgefl.runtime.buffers import Buffers


def test_a_buffer_given_back_is_used_again_for_what_fits_and_not_for_much_less() -> None:
    buffers = Buffers()
    array = buffers.take((3, 4))
    assert array.shape == (12,)
    assert array.dtype == np.float32
    buffers.give_back(array)

    assert buffers.take((5,)) is not array  # less than half of it
    assert buffers.take((2, 5)) is array


def test_what_is_too_small_when_something_is_missing_is_let_go() -> None:
    buffers = Buffers()
    small, large = buffers.take((8,)), buffers.take((30,))
    buffers.give_back(small)
    buffers.give_back(large)

    assert buffers.take((9,)) is not large  # more than twice as large
    assert buffers.take((8,)) is not small
    assert buffers.take((30,)) is large


def test_the_smallest_buffer_that_fits_is_taken() -> None:
    buffers = Buffers()
    taken = [buffers.take((size,)) for size in (16, 10, 12)]
    for array in taken:
        buffers.give_back(array)

    assert [len(buffers.take((10,))) for _ in range(3)] == [10, 12, 16]


def test_a_buffer_in_use_is_not_given_out_twice() -> None:
    buffers = Buffers()
    first, second = buffers.take((8,)), buffers.take((8,))
    assert not np.shares_memory(first, second)


def test_a_scalar_has_a_buffer_of_one() -> None:
    assert len(Buffers().take(())) == 1
