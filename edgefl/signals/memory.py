"""Memory this process can still take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

from edgefl.signals.files import read_number, read_text

__all__ = ["read_free_memory"]

_GROUPS = Path("sys/fs/cgroup")


def read_free_memory(root: Path) -> int:
    """Return the bytes that the system has left, or the control group of this process where that is less.

    Args:
        root: The root of the file system.
    """
    return min([int(psutil.virtual_memory().available), *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterator[int]:
    """Give what is left in this process's control group, and in each one around it (cgroup v2)."""
    own = next(
        (line[3:] for line in (read_text(root / "proc/self/cgroup") or "").splitlines() if line[:3] == "0::"), "/"
    )
    for group in (PurePosixPath(own), *PurePosixPath(own).parents):
        folder = root / _GROUPS / str(group).lstrip("/")
        limit, used = read_number(folder / "memory.max"), read_number(folder / "memory.current")
        if limit is not None and used is not None:
            yield max(0, int(limit - used + _reclaimable(folder)))


def _reclaimable(folder: Path) -> float:
    """Return the bytes of file pages that the kernel drops before it refuses memory."""
    counts = dict(
        line.split(maxsplit=1) for line in (read_text(folder / "memory.stat") or "").splitlines() if " " in line
    )
    try:
        return float(counts.get("inactive_file", 0))
    except ValueError:
        return 0.0
