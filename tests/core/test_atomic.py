"""Replacing a file whole or not at all."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefl.core.atomic import write_atomically
from edgefl.errors import StorageError


def test_a_file_is_made_of_its_parts_in_order(tmp_path: Path) -> None:
    write_atomically(tmp_path / "f", [b"one", memoryview(b"two"), b"three"])

    assert (tmp_path / "f").read_bytes() == b"onetwothree"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644


def test_whoever_has_the_old_file_mapped_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        write_atomically(path, [b"new"])

        assert mapped[:] == b"old"
    assert path.read_bytes() == b"new"


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def parts() -> Iterator[bytes]:
        yield b"half of the n"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, parts())

    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]  # noqa: PTH208  # hidden files too


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*/none is no folder; make it"):
        write_atomically(tmp_path / "none" / "f", [b""])


def test_a_folder_in_the_file_s_place_is_a_storage_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()

    with pytest.raises(StorageError, match="cannot write"):
        write_atomically(tmp_path / "f", [b"new"])

    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_pipe_is_refused_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(StorageError, match="no regular file"):
        write_atomically(pipe, [b"new"])
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_of_a_link_the_file_it_leads_to_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, [b"new"])
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
