"""The server holds its folder alone and binds nothing but this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edgefl.errors import BadInputError, RefusedError
from edgefl_server.host.superlink import LOOPBACK, check_host, choose_port

SERVER = Path(__file__).parents[2] / "server"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org", ""])  # noqa: S104  # what is refused
def test_any_address_but_loopback_is_refused_with_the_reason(host: str) -> None:
    with pytest.raises(RefusedError, match="until devices can be paired"):
        check_host(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_served(host: str) -> None:
    check_host(host)


def test_port_0_is_any_port_that_is_free() -> None:
    port = choose_port(0)
    assert choose_port(port) == port


def test_a_port_in_use_is_refused_by_number() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInputError, match=f"--port {port} .*choose another one, or 0"):
            choose_port(port)


def test_a_number_that_is_no_port_is_refused() -> None:
    with pytest.raises(BadInputError, match="--port 65536"):
        choose_port(65536)


def test_a_tethered_command_ends_with_the_process_that_started_it() -> None:
    # A shell starts the command, tells its pid and is killed; `sleep` alone would go on for a minute.
    tether = f"{sys.executable} -m edgefl_server.host.tether $$ /usr/bin/env sleep 60"
    script = f"{tether} & echo $!; wait"
    with subprocess.Popen(
        ["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(SERVER)}
    ) as shell:
        assert shell.stdout is not None
        command = psutil.Process(int(shell.stdout.readline()))
        try:
            until_named(command, "sleep")
        finally:
            shell.kill()
    psutil.wait_procs([command], timeout=10)
    assert not command.is_running() or command.status() == psutil.STATUS_ZOMBIE


def until_named(process: psutil.Process, name: str) -> None:
    """Wait until a process has become another command."""
    for _ in range(1000):
        if process.name() == name:
            return
        psutil.wait_procs([process], timeout=0.01)
    pytest.fail(f"still {process.name()}")
