"""Sizes with units: MB is a power of ten, MiB a power of two."""

from __future__ import annotations

import click
import pytest

from edgefl.core.sizes import ByteSizes


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("150MB", (150_000_000,)),
        ("150MiB", (157_286_400,)),  # 150 * 1024 * 1024
        ("1GB", (1_000_000_000,)),
        ("1GiB", (1_073_741_824,)),
        ("1.5 gib", (1_610_612_736,)),
        ("0.1MB", (100_000,)),  # not 99,999: no binary fraction is involved
        ("12kB", (12_000,)),
        ("2KiB", (2_048,)),
        ("7B", (7,)),
        ("64MB, 150MB,1GB", (64_000_000, 150_000_000, 1_000_000_000)),
    ],
)
def test_a_size_is_a_number_of_bytes(text: str, sizes: tuple[int, ...]) -> None:
    assert ByteSizes(several=True).convert(text, None, None) == sizes


@pytest.mark.parametrize(
    "text", ["", "150", "MB", "-1MB", "1e9B", "nanMB", "1,5MB", "64MB,", "1 TB", "1MBit", "1MB 2MB", "1234567890MB"]
)
def test_what_is_no_size_is_a_usage_error_that_names_the_units(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size; write a number and a unit, B, kB, MB, GB, KiB, MiB, GiB"):
        ByteSizes(several=True).convert(text, None, None)


def test_one_size_is_not_several() -> None:
    with pytest.raises(click.BadParameter, match="'1MB,2MB' is more than one size"):
        ByteSizes().convert("1MB,2MB", None, None)
