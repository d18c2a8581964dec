"""Exits as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.core.exits import check_exits, format_exits, parse_exits
from edgefl.errors import ExitsError


@pytest.mark.parametrize(
    ("text", "exits"),
    [
        ("0", (0,)),
        ("0-3", (0, 1, 2, 3)),
        ("2,5,8,11", (2, 5, 8, 11)),
        ("0-3,11", (0, 1, 2, 3, 11)),
        ("11, 2 ,2", (2, 11)),
        ("1-3,2-4", (1, 2, 3, 4)),
        ("7-7", (7,)),
    ],
)
def test_a_text_names_rising_exits_without_repeats(text: str, exits: tuple[int, ...]) -> None:
    assert parse_exits(text) == exits


@pytest.mark.parametrize(
    ("text", "part"),
    [("5-2", "5-2"), ("a", "'a'"), ("", "''"), ("1,,2", "''"), ("-1", "'-1'"), ("0-", "'0-'"), ("12345", "'12345'")],
)
def test_a_text_that_names_no_exits_is_refused_with_the_part_that_is_wrong(text: str, part: str) -> None:
    with pytest.raises(ExitsError) as refusal:
        parse_exits(text)

    assert repr(text) in str(refusal.value)
    assert part in str(refusal.value)


def test_a_range_that_falls_is_answered_with_the_range_that_was_meant() -> None:
    with pytest.raises(ExitsError, match="write 2-5"):
        parse_exits("5-2")


@pytest.mark.parametrize(
    ("exits", "text"), [((0,), "0"), ((0, 1, 2, 3, 11), "0-3,11"), ((11, 0, 1), "0-1,11"), ((2, 5), "2,5")]
)
def test_neighbours_are_written_as_a_range(exits: tuple[int, ...], text: str) -> None:
    assert format_exits(exits) == text


@given(st.sets(st.integers(0, 9999), min_size=1))
def test_written_exits_are_read_back(exits: set[int]) -> None:
    assert parse_exits(format_exits(tuple(exits))) == tuple(sorted(exits))


def test_exits_that_a_model_has_pass() -> None:
    check_exits((0, 2), (0, 1, 2), "model m")


def test_all_missing_exits_are_named_with_what_there_is() -> None:
    with pytest.raises(ExitsError, match=r"exit 3, 12 does not exist: model m has the exits 0-2") as refusal:
        check_exits((12, 1, 3), (0, 1, 2), "model m")

    assert refusal.value.exit_code == 3
