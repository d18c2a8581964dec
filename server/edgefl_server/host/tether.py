"""Become another command that the kernel ends when the process that started it is gone, even by SIGKILL.

Usage: python -m edgefl_server.host.tether PARENT_PID COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__: list[str] = []

_PR_SET_PDEATHSIG = 1


def _main(parent_pid: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        # It died before the kernel could be asked.
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  # a command of our own making, and no shell is wanted


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
