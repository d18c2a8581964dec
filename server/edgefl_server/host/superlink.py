"""A stock `flower-superlink` as a child process on this machine's loopback address.

Its Control API has no authentication and shares the port with the devices' Fleet API: whoever reaches the port can
run code here.  So nothing but 127.0.0.1 is ever bound.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import version
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

import psutil
import urllib3

from edgefl.errors import BadInputError, MissingExtraError, RefusedError, UnreachableError
from edgefl_server.host.authority import Credentials
from edgefl_server.host.state import StateFolder

__all__ = ["LOOPBACK", "SuperLink", "check_host", "choose_port", "last_lines"]

LOOPBACK = "127.0.0.1"
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.1


def check_host(host: str) -> None:
    """Refuse to serve anybody but this machine.

    Raises:
        RefusedError: If `host` is not the loopback address.
    """
    if host not in {LOOPBACK, "localhost"}:
        raise RefusedError(
            f"--host {host}: only {LOOPBACK} is served until devices can be paired, because whoever reaches "
            f"Flower's port can run code on this machine; leave --host out and reach it through an SSH tunnel"
        )


def choose_port(port: int) -> int:
    """Return a port that is free now.

    Args:
        port: The one wanted; 0 for any.

    Raises:
        BadInputError: If it cannot be had.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the SuperLink does: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except (OSError, OverflowError) as error:
            raise BadInputError(
                f"--port {port} on {LOOPBACK} cannot be used: {error}; choose another one, or 0 for any that is free"
            ) from error
        chosen: int = probe.getsockname()[1]
        return chosen


class SuperLink:
    """The running process; a context manager that ends it with all its children.

    Attributes:
        address: Host and port.
    """

    def __init__(self, state: StateFolder, port: int, credentials: Credentials | None = None) -> None:
        """Prepare a process.

        Args:
            state: Where its log, its database and Flower's own folder go.
            port: A free port.
            credentials: For TLS, with which only devices that were registered are served; None for neither.

        Raises:
            MissingExtraError: If Flower's command is not installed.
        """
        self.address = f"{LOOPBACK}:{port}"
        self._state = state
        self._authority = credentials.authority if credentials else None
        self._command = [
            _find_superlink(state),
            *("--host", LOOPBACK, "--port", str(port)),
            "--disable-runtime-dependency-installation",
            *_security(state, credentials),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the process and wait until it answers.

        Raises:
            UnreachableError: If it ends or does not answer in time; the message has its last lines.
        """
        tether = [sys.executable, "-m", "edgefl_server.host.tether", str(os.getpid())]
        with self._state.superlink_log.open("ab") as log:
            # A session of its own: a ctrl-C in the terminal reaches the command alone, which then ends all in order.
            self._process = subprocess.Popen(
                [*tether, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(self._state),
                start_new_session=True,
            )
        try:
            self._wait_until_healthy(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.stop()

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process is not None and self._process.poll() is None

    def facts(self) -> dict[str, str | int]:
        """Return what a report tells about the running process: pid, address, command and Flower's version."""
        pid = self._process.pid if self._process is not None else 0
        return {
            "pid": pid,
            "address": self.address,
            "command": Path(self._command[0]).name,
            "flwr": version("flwr"),
        }

    def stop(self) -> None:
        """End the process and all it started: asked first, killed after a few seconds."""
        if self._process is None:
            return
        # Flower puts its children into sessions of their own, so a process group would not reach them; and they go
        # first, because a ServerApp without its SuperLink takes seconds to believe it.
        _end(_descendants(self._process.pid))
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _wait_until_healthy(self, process: subprocess.Popen[bytes]) -> None:
        ends = time.monotonic() + _START_SECONDS
        pause = Event()
        while not _is_healthy(self.address, self._authority):
            if process.poll() is not None or time.monotonic() > ends:
                state = "does not answer" if process.poll() is None else f"ended with code {process.returncode}"
                raise UnreachableError(
                    f"flower-superlink on {self.address} {state}; {self._state.superlink_log} ends with:\n"
                    + last_lines(self._state.superlink_log)
                )
            pause.wait(_POLL_SECONDS)


def last_lines(path: Path, count: int = 20) -> str:
    """Return the end of a log."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])


def _find_superlink(state: StateFolder) -> str:
    command = shutil.which("flower-superlink", path=_environment(state)["PATH"])
    if command is None:
        raise MissingExtraError("there is no command flower-superlink; run: pip install 'edgefl[server]'")
    return command


def _environment(state: StateFolder) -> dict[str, str]:
    # This interpreter's own commands first, wherever it was started from: the SuperLink starts others by name.
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # A line for every request would fill the disk of a server that runs for weeks.
    return (
        {"FLWR_LOG_LEVEL": "WARNING"}
        | os.environ
        | {
            "PATH": path,
            "FLWR_HOME": str(state.flower_home.resolve()),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        }
    )


def _security(state: StateFolder, credentials: Credentials | None) -> list[str]:
    if credentials is None:
        # Its state stays in memory: devices that find themselves forgotten register again, and a round takes about
        # half as long as with --database, whose every object is a transaction.
        return ["--insecure"]
    return [
        *("--ssl-certfile", str(credentials.certificate.resolve())),
        *("--ssl-keyfile", str(credentials.key.resolve())),
        *("--ssl-ca-certfile", str(credentials.authority.resolve())),
        "--enable-supernode-auth",
        # A device that was registered stays so, and what it is working on still counts after a restart.
        *("--database", str(state.superlink_database.resolve())),
    ]


def _is_healthy(address: str, authority: Path | None) -> bool:
    scheme = "https" if authority else "http"
    with urllib3.PoolManager(ca_certs=str(authority) if authority else None) as pool:
        try:
            return pool.request("GET", f"{scheme}://{address}/health", timeout=2.0, retries=False).status == 200
        except urllib3.exceptions.HTTPError:
            return False


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _end(processes: list[psutil.Process]) -> None:
    """Ask processes to end, then make them; psutil knows a pid that was given to somebody else in between."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        ends = time.monotonic() + _STOP_SECONDS
        pause = Event()
        while (processes := [each for each in processes if _runs(each)]) and time.monotonic() < ends:
            pause.wait(_POLL_SECONDS)


def _runs(process: psutil.Process) -> bool:
    """Whether a process does anything; a zombie only waits for its parent, which is ended next."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
