"""Fixtures of the node's tests; none of them needs Flower."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.device import Device
from tests.fleet.http_server import HttpServer
from tests.fleet.loopback_fleet import LoopbackFleet


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> LoopbackFleet:
    monkeypatch.setattr("edgefl.fleet.transport._FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr("edgefl.fleet.delivery._PULL_AGAIN_SECONDS", 0.01)
    return LoopbackFleet()


@pytest.fixture
def server(fleet: LoopbackFleet) -> Iterator[HttpServer]:
    with HttpServer(fleet.decide) as running:
        yield running


@pytest.fixture
def device(server: HttpServer, tmp_path: Path) -> Iterator[Device]:
    made = Device(server.url, tmp_path / "state")
    yield made
    made.switch_off()
