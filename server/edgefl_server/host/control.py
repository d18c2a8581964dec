"""Tell a SuperLink what to run and whom to let in: the only module that uses Flower's internals.

There is no public way to do either without an application folder and a configuration file in the user's home.
What is imported here are thin wrappers of the Control API's public protobuf messages; they are pinned by the version
range in pyproject.toml and exercised by the test with a real SuperLink.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest, StreamLogsRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.fab import Fab

from edgefl.errors import EdgeFLError, UnreachableError
from edgefl.version import __version__
from edgefl_server.settings import Settings

__all__ = ["Control", "Run", "RunStatus"]

_APP = """
[project]
name = "edgefl"
version = "{version}"

[tool.flwr.app]
publisher = "edgefl"

[tool.flwr.app.components]
serverapp = "edgefl_server.app:app"
clientapp = "edgefl_server.app:app"

[tool.flwr.app.config]
{config}
"""
"""An application without code: Flower imports the component from where edgefl is installed.

It has to name a clientapp; no device of edgefl ever loads one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Where a run stands.

    Attributes:
        is_finished: Whether its process has ended.
        is_completed: Whether it ended well.
        details: Why it did not.
    """

    is_finished: bool
    is_completed: bool
    details: str


class Run:
    """A run that was started.

    Attributes:
        run_id: Flower's id.
    """

    def __init__(self, client: ControlHttpClient, run_id: int) -> None:
        self.run_id = run_id
        self._client = client

    def status(self) -> RunStatus:
        """Ask where the run stands.

        Raises:
            UnreachableError: If the SuperLink does not answer.
        """
        try:
            runs = self._client.ListRuns(ListRunsRequest(run_id=self.run_id)).run_dict
        except httpx.HTTPError as error:
            raise UnreachableError(f"the SuperLink does not answer any more: {error}") from error
        status = runs[self.run_id].status
        return RunStatus(
            is_finished=status.status == "finished",
            is_completed=status.sub_status == "completed",
            details=status.details,
        )

    def last_log_lines(self, count: int = 20) -> str:
        """Return the end of what the ServerApp printed; for a run that has finished."""
        stream = self._client.StreamLogs(StreamLogsRequest(run_id=self.run_id))
        text = "".join(response.log_output for response in stream)
        return "\n".join(text.splitlines()[-count:])


class Control:
    """A connection to a SuperLink's Control API; a context manager that closes it.

    Args:
        address: Host and port.
        authority: The certificate that signed the SuperLink's, PEM; None for one without TLS.
    """

    def __init__(self, address: str, authority: Path | None = None) -> None:
        self._address = address
        root = None if authority is None else authority.read_bytes()
        self._client = ControlHttpClient.from_server_address(address, root is None, root, interceptors=[])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def start_run(self, settings: Settings) -> Run:
        """Submit a run of edgefl's ServerApp; it can be followed as long as this connection is open.

        Raises:
            UnreachableError: If the SuperLink does not answer.
            EdgeFLError: If it does not take the run.
        """
        content = _build_app(settings)
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        try:
            response = self._client.StartRun(StartRunRequest(fab=fab_to_proto(fab)))
        except httpx.HTTPError as error:
            raise UnreachableError(f"the SuperLink on {self._address} did not take the run: {error}") from error
        if not response.HasField("run_id"):
            raise EdgeFLError(f"the SuperLink on {self._address} did not start the run; see its log")
        return Run(self._client, response.run_id)

    def register(self, public_key: bytes) -> None:
        """Let a device's key in; one that is registered already stays so.

        Args:
            public_key: SPKI PEM.

        Raises:
            UnreachableError: If the SuperLink does not answer, or not with what it should.
        """
        try:
            self._client.RegisterNode(RegisterNodeRequest(public_key=public_key))
        except httpx.HTTPStatusError as error:
            if not _is_known(error.response):
                raise UnreachableError(f"the SuperLink on {self._address} does not take a device: {error}") from error
        except httpx.HTTPError as error:
            raise UnreachableError(f"the SuperLink on {self._address} does not take a device: {error}") from error


def _is_known(response: httpx.Response) -> bool:
    try:
        return bool(response.json()["code"] == ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE)
    except (ValueError, KeyError, TypeError):
        return False


def _build_app(settings: Settings) -> bytes:
    """Return the application that carries the settings as its run config."""
    # A JSON scalar is a TOML scalar, as long as text keeps its characters instead of surrogate escapes.
    config = "\n".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in settings.to_run_config().items()
    )
    content, _ = build_fab_from_files({"pyproject.toml": _APP.format(version=__version__, config=config).encode()})
    return content
