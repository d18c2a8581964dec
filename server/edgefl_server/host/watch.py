"""Follow a run from outside its process: by its status, its log and its history on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

from edgefl.errors import EdgeFLError, StorageError, UnreachableError
from edgefl_server.host.control import Run, RunStatus
from edgefl_server.host.state import StateFolder
from edgefl_server.host.superlink import SuperLink
from edgefl_server.rounds.history import RoundRecord, read_round

__all__ = ["Watch"]


class _Tail:
    """The whole lines that are added to a file from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.lines()

    def lines(self) -> list[bytes]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                added = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror}; choose another --state") from error
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()


class Watch:
    """What a run tells; made before the run starts, so that nothing is missed."""

    def __init__(self, state: StateFolder) -> None:
        self._log = _Tail(state.server_log)
        self._history = _Tail(state.history)

    def follow(self, run: Run, superlink: SuperLink, poll_seconds: float = 0.5) -> Iterator[str | RoundRecord]:
        """Yield log lines and rounds as they are written, until the run has finished.

        Args:
            run: The run.
            superlink: Where it runs.
            poll_seconds: How often to look.

        Raises:
            EdgeFLError: If the run failed; the message has the last lines of its log.
            UnreachableError: If the SuperLink is gone.
        """
        pause = Event()
        # The status is asked first: what was written before it said that the run is over is read after it.
        while not (status := _status(run, superlink)).is_finished:
            yield from self._news()
            pause.wait(poll_seconds)
        yield from self._news()
        if not status.is_completed:
            raise EdgeFLError(f"the run failed: {status.details}; its log ends with:\n{run.last_log_lines()}")

    def _news(self) -> Iterator[str | RoundRecord]:
        for line in self._log.lines():
            yield line.decode("utf-8", errors="replace")
        for line in self._history.lines():
            record = read_round(line)
            if record is not None:
                yield record


def _status(run: Run, superlink: SuperLink) -> RunStatus:
    try:
        return run.status()
    except UnreachableError:
        if not superlink.is_alive():
            raise
        # It has one worker, and many devices may be uploading.
        return RunStatus(is_finished=False, is_completed=False, details="")
