"""A stock flower-superlink on a free loopback port, to be killed and started again by tests."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sysconfig
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import urllib3
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab

from tests.fleet.http_server import free_port
from tests.waiting import wait_until

_APP = """
[project]
name = "fleet-conformance"
version = "0.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "edgefl"

[tool.flwr.app.components]
serverapp = "{app}:app"
clientapp = "{app}:app"

[tool.flwr.app.config]
results = ""
"""


class SuperLink:
    """The process and its children; a context manager that ends them all."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, a second time with the database and the port of the first."""
        command = [
            str(Path(sysconfig.get_path("scripts")) / "flower-superlink"),
            "--insecure",
            "--disable-runtime-dependency-installation",
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--database", str(self._folder / "superlink.db")),
        ]
        environment = os.environ | {
            "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parent),
            "FLWR_HOME": str(self._folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        }
        with (self._folder / "superlink.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        wait_until(self._is_up, 60, f"{self.url} answers")

    def kill(self) -> None:
        """End the process and its children at once, as a power cut does."""
        if self._process is None:
            return
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        for child in family:
            if child.is_running():
                child.kill()
        psutil.wait_procs(family, timeout=10)
        self._process = None

    def submit(self, results: Path, app: str = "federation_app") -> int:
        """Start a run and return its id.

        Args:
            results: Where the ServerApp writes what it found out.
            app: A module of this folder, with the ServerApp.
        """
        fab, _ = build_fab_from_files({"pyproject.toml": _APP.format(app=app).encode()})
        request = StartRunRequest(
            fab=fab_to_proto(Fab(hashlib.sha256(fab).hexdigest(), fab, {})),
            override_config=user_config_to_proto({"results": str(results)}),
        )
        with ControlHttpClient.from_server_address(f"127.0.0.1:{self.port}", True, None, interceptors=[]) as client:
            run_id: int = client.StartRun(request).run_id
        return run_id

    def log(self) -> str:
        """Return what it has written so far."""
        return (self._folder / "superlink.log").read_text(errors="replace")

    def _is_up(self) -> bool:
        try:
            return urllib3.request("GET", f"{self.url}/health", timeout=2.0, retries=False).status == 200
        except urllib3.exceptions.HTTPError:
            return False
