"""One side of a comparison in a process of its own, which works when it is asked and sleeps otherwise.

Each side has its own memory peak, its own threads and its own libraries, and no side's spinning threads take the
cores of another: `Worker.turn` returns only when all threads of the process sleep.  Run as `python -m
benchmarks.worker`, this module is that process: it reads a `Task` and then `Request`s on standard input and writes a
`Reply` to each, one JSON a line.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec
import numpy as np
import psutil

from benchmarks.sides import IMPORTS, Task, prepare
from edgefl.core.tensors import TensorFile, encode_tensors
from edgefl.errors import EdgeFLError
from edgefl.measure.memory import peak_rss

__all__ = ["Reply", "Worker"]

_ROOT = Path(__file__).parent.parent
_SETTLING_SECONDS = 2.0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to do next.

    Attributes:
        untimed: Steps before the timed ones.
        timed: Steps that are timed.
        answer: File to write the answer to, empty for none.
    """

    untimed: int = 0
    timed: int = 0
    answer: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        seconds: Of each timed step, by the name of the part.
        peak_rss: Most resident bytes of the process so far.
        baseline_rss: The same after its imports.
    """

    seconds: dict[str, list[float]]
    peak_rss: int
    baseline_rss: int


class Worker:
    """A side's process, from the parent's point of view."""

    def __init__(self, task: Task) -> None:
        """Start the process; it loads what the task needs before it replies to anything."""
        self._task = task
        threads = str(task.threads)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env={**os.environ, "EDGEFL_THREADS": threads, "OMP_NUM_THREADS": threads},
        )
        self._send(task)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def turn(self, *, timed: int = 1, untimed: int = 0) -> Reply:
        """Let the side work and wait until all its threads sleep.

        Raises:
            EdgeFLError: If the process has ended.
        """
        self._send(Request(untimed=untimed, timed=timed))
        reply = self._receive()
        self._wait_until_asleep()
        return reply

    def answer(self, path: Path) -> dict[str, np.ndarray[Any, Any]]:
        """Return what the side computes, by name.

        Args:
            path: A file for it.

        Raises:
            EdgeFLError: If the process has ended.
        """
        self._send(Request(answer=str(path)))
        self._receive()
        return TensorFile(path).arrays()

    def processor_seconds(self) -> float:
        """Return what the process has had of the processor so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def _send(self, message: Task | Request) -> None:
        try:
            _stream(self._process.stdin).write(msgspec.json.encode(message) + b"\n")
            _stream(self._process.stdin).flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _receive(self) -> Reply:
        line = _stream(self._process.stdout).readline()
        if not line:
            raise self._ended()
        return msgspec.json.decode(line, type=Reply)

    def _ended(self) -> EdgeFLError:
        task = self._task
        return EdgeFLError(
            f"the process of side {task.kind}, {task.mode} at exit {task.exit_index}, ended early with status "
            f"{self._process.wait()}; its own words stand above; if memory ran out, try a smaller --batch-size"
        )

    def _wait_until_asleep(self) -> None:
        deadline = time.monotonic() + _SETTLING_SECONDS
        while _has_running_threads(self._process.pid):
            if time.monotonic() > deadline:
                raise EdgeFLError(
                    f"threads of side {self._task.kind} still run {_SETTLING_SECONDS:.0f} s after its step"
                )
            time.sleep(0.001)


def _stream(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise TypeError("the process was started without this pipe")
    return pipe


def _has_running_threads(pid: int) -> bool:
    """Say whether a thread runs or wants to; where the kernel does not tell, say no."""
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError):  # the thread has just ended
            if path.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "R":
                return True
    return False


def _serve(requests: IO[bytes], reply: Callable[[Reply], None]) -> None:
    task = msgspec.json.decode(requests.readline(), type=Task)
    for module in IMPORTS[task.kind]:
        importlib.import_module(module)
    baseline = peak_rss()
    work = prepare(task)
    for line in requests:
        request = msgspec.json.decode(line, type=Request)
        seconds = {name: _timed(part, request) for name, part in work.parts.items()}
        if request.answer:
            Path(request.answer).write_bytes(b"".join(encode_tensors(work.answer())))
        reply(Reply(seconds=seconds, peak_rss=peak_rss(), baseline_rss=baseline))


def _timed(part: Callable[[], object], request: Request) -> list[float]:
    for _ in range(request.untimed):
        part()
    seconds = []
    for _ in range(request.timed):
        started = time.perf_counter()
        part()
        seconds.append(time.perf_counter() - started)
    return seconds


def _main() -> None:
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What a library prints must not end up among the replies.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def reply(message: Reply) -> None:
        replies.write(msgspec.json.encode(message) + b"\n")
        replies.flush()

    _serve(sys.stdin.buffer, reply)


if __name__ == "__main__":
    _main()
