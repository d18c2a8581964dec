"""Computing gives way to answering: on a device with few cores an answer would wait for one to be free."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["give_way", "giving_way"]

_NICE = 5

_Result = TypeVar("_Result")


def give_way() -> None:
    """Let other threads go first from now on; the threads that this one starts do so, too.

    Linux alone has a priority for each thread.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


async def giving_way(work: Callable[[], _Result]) -> _Result:
    """Return what a function returns, run in a thread that gives way."""
    with ThreadPoolExecutor(1, initializer=give_way) as thread:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
