"""Memory of this process, by the names the kernel has for it."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

__all__ = ["ANONYMOUS_METHOD", "anonymous_rss", "mapped_rss", "peak_rss", "peak_rss_of_children"]

ANONYMOUS_METHOD = "RssAnon sampled between program calls, a lower bound"


def peak_rss() -> int:
    """Return the most bytes this process ever had resident: VmHWM on Linux, exact."""
    if (status := _status("VmHWM")) is not None:
        return status
    windows_peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if windows_peak is not None:
        return int(windows_peak)
    return _most_resident(of_children=False)


def peak_rss_of_children() -> int:
    """Return the most bytes that any of the processes this one has waited for had resident; 0 on Windows."""
    return 0 if sys.platform == "win32" else _most_resident(of_children=True)


def _most_resident(*, of_children: bool) -> int:
    import resource  # Windows does not have it

    peak = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def anonymous_rss() -> int:
    """Return the resident bytes that no file backs, now; where the kernel does not tell, all resident bytes."""
    status = _status("RssAnon")
    return status if status is not None else int(psutil.Process().memory_info().rss)


def mapped_rss(paths: list[Path]) -> int:
    """Return the resident bytes of mapped files, now; 0 where the kernel does not tell.

    Args:
        paths: The files, resolved.
    """
    names = {str(path) for path in paths}
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    total, counting = 0, False
    for line in lines:
        fields = line.split(maxsplit=5)
        if "-" in fields[0] and not fields[0].endswith(":"):
            counting = len(fields) == 6 and fields[5] in names
        elif counting and fields[0] == "Rss:":
            total += int(fields[1]) * 1024
    return total


def _status(field: str) -> int | None:
    """Return a field of /proc/self/status in bytes, None where there is none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None
