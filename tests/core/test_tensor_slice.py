"""Names of parts of tensors, and their union."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.core.tensor_slice import TensorSlice, merge_slices

ROWS, COLUMNS = 6, 5


def parts(*keys: str) -> list[TensorSlice]:
    return [TensorSlice.parse(key) for key in keys]


def counted(slices: Iterable[TensorSlice]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return how often each element of a tensor is named."""
    counts = np.zeros((ROWS, COLUMNS), np.int64)
    for part in slices:
        counts[part.index] += 1
    return counts


def ranges(length: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(0, length), st.integers(0, length)).filter(lambda bounds: bounds[0] < bounds[1])


whole_or_rows = st.one_of(st.just(()), st.just((None,)), st.tuples(ranges(ROWS)), st.tuples(ranges(ROWS), st.none()))
boxes = st.tuples(st.one_of(st.none(), ranges(ROWS)), ranges(COLUMNS))
any_slice = st.builds(TensorSlice, st.just("w"), st.one_of(whole_or_rows, boxes))


@pytest.mark.parametrize(
    ("key", "ranges"),
    [
        ("accumulator.positions[0:7]", ((0, 7),)),
        ("mlp.fc2.weight[:,0:640]", (None, (0, 640))),
        ("w[1:2,3:4]", ((1, 2), (3, 4))),
        ("head.norm.weight", ()),
    ],
)
def test_a_key_names_a_range_for_each_leading_axis(key: str, ranges: tuple[tuple[int, int] | None, ...]) -> None:
    part = TensorSlice.parse(key)

    assert part.name == key.partition("[")[0]
    assert part.ranges == ranges
    assert part.key == key


@given(any_slice)
def test_a_key_is_read_back(part: TensorSlice) -> None:
    assert TensorSlice.parse(part.key) == part


@pytest.mark.parametrize(
    "key",
    ["", "w[", "w[]", "w[1]", "w[0:1", "w[0:1]x", "w[-1:2]", "w[0:1,]", "w[0:1][0:1]", "w[a:b]", "w[0:9999999999]"],
)
def test_what_is_no_key_is_refused_by_its_text(key: str) -> None:
    with pytest.raises(ValueError, match="expected") as refusal:
        TensorSlice.parse(key)

    assert repr(key) in str(refusal.value)


@pytest.mark.parametrize("key", ["w[3:3]", "w[4:3]", "w[:,2:1]"])
def test_a_part_without_elements_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="is empty"):
        TensorSlice.parse(key)


@given(any_slice)
def test_index_and_shape_are_those_of_numpy(part: TensorSlice) -> None:
    tensor = np.zeros((ROWS, COLUMNS))

    assert part.shape(tensor.shape) == tensor[part.index].shape


@pytest.mark.parametrize(
    ("key", "fault"), [("w[0:7]", "outside"), ("w[:,0:6]", "outside"), ("w[:,:,0:1]", "names 3 axes")]
)
def test_a_part_that_leaves_its_tensor_is_refused(key: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        TensorSlice.parse(key).shape((ROWS, COLUMNS))


@pytest.mark.parametrize(
    ("slices", "merged"),
    [
        (parts("w[0:2]", "w[2:4]"), parts("w[0:4]")),  # they touch
        (parts("w[3:5]", "w[0:4]"), parts("w[0:5]")),  # they overlap
        (parts("w[0:2]", "w[3:4]"), parts("w[0:2]", "w[3:4]")),  # row 2 is nobody's
        (parts("w[0:5]", "w[1:2]"), parts("w[0:5]")),
        (parts("w[0:2]", "w", "w[:,1:2]"), parts("w")),
        (parts("w[:]"), parts("w")),
        (parts("w[0:2,:]", "w[2:3]"), parts("w[0:3]")),  # a whole axis at the end says nothing
        (parts("w[0:2,0:3]", "w[0:2,0:3,:]"), parts("w[0:2,0:3]")),  # one box under two names
        (parts("w[0:2,0:3]", "w[0:1,1:2]"), parts("w[0:2,0:3]")),
        (parts("w[0:4]", "w[1:3,0:2]"), parts("w[0:4]")),
        (parts("w[0:2]", "w[1:3,0:2]"), parts("w[0:2]", "w[1:3,0:2]")),
        (parts("b[0:1]", "a", "b[1:2]"), parts("b[0:2]", "a")),  # names in the order they first came
        ([], []),
    ],
)
def test_parts_are_joined_where_they_meet(slices: list[TensorSlice], merged: list[TensorSlice]) -> None:
    assert list(merge_slices(slices)) == merged


@given(st.lists(any_slice, max_size=8))
def test_merging_neither_loses_nor_adds_an_element(slices: list[TensorSlice]) -> None:
    merged = merge_slices(slices)

    assert np.array_equal(counted(merged) > 0, counted(slices) > 0)
    assert merge_slices(merged) == merged


@given(st.lists(st.builds(TensorSlice, st.just("w"), whole_or_rows), max_size=8))
def test_merged_rows_name_no_element_twice(slices: list[TensorSlice]) -> None:
    assert counted(merge_slices(slices)).max() <= 1
