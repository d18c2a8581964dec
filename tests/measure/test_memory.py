"""Memory by the names the kernel has for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgefl.measure.memory import anonymous_rss, mapped_rss, peak_rss

MIB = 1024 * 1024


def mapped(path: Path, mebibytes: int = 1) -> np.memmap[Any, np.dtype[np.uint8]]:
    """Write a file, map it and touch all of its pages."""
    path.write_bytes(b"\1" * (mebibytes * MIB))
    array = np.memmap(path, dtype=np.uint8, mode="r")
    assert int(array.sum()) == mebibytes * MIB
    return array


def test_only_the_files_that_are_named_are_counted(tmp_path: Path) -> None:
    first, second = tmp_path / "first weights", tmp_path / "second-weights"
    arrays = [mapped(first), mapped(second)]

    assert mapped_rss([first]) == MIB
    assert mapped_rss([second, first]) == 2 * MIB
    assert mapped_rss([]) == 0
    assert mapped_rss([tmp_path / "first"]) == 0

    del arrays[0]
    assert mapped_rss([first, second]) == MIB


def test_pages_nobody_touched_are_not_resident(tmp_path: Path) -> None:
    path = tmp_path / "untouched"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    array = np.memmap(path, dtype=np.uint8, mode="r")

    assert array[0] == 0
    assert mapped_rss([path]) < 4 * MIB  # the kernel maps a few neighbours of the page that was read


def test_memory_of_one_s_own_is_anonymous_and_mapped_files_are_not(tmp_path: Path) -> None:
    before = anonymous_rss()
    array = np.ones(64 * MIB, np.uint8)
    with_array = anonymous_rss()
    file = mapped(tmp_path / "weights", 64)

    # Other threads of this process may take a little meanwhile.
    assert 63 * MIB < with_array - before < 72 * MIB
    assert anonymous_rss() - with_array < 32 * MIB
    assert len(array) + len(file) == 128 * MIB


def test_the_peak_stays_when_the_memory_is_gone() -> None:
    array = np.ones(96 * MIB, np.uint8)
    high = anonymous_rss()
    assert array[-1] == 1
    del array

    assert anonymous_rss() < high - 90 * MIB
    assert peak_rss() > high
