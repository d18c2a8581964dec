"""Small files of the kernel that may be absent, unreadable or filled with nonsense."""

from __future__ import annotations

import math
from pathlib import Path

__all__ = ["read_number", "read_text"]

_MOST_BYTES = 4096


def read_text(path: Path) -> str | None:
    """Return a file's text without the white space around it, None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace").strip()
    except OSError:  # a sensor that is being unplugged answers with ENODEV, a foreign file with EACCES
        return None


def read_number(path: Path) -> float | None:
    """Return a file's number, None if it holds none that is finite."""
    try:
        number = float(read_text(path) or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
