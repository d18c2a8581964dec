"""Puts the service together: model, measured batches, engine, watch, server."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import click
from PIL import Image
from prometheus_client import start_http_server

from edgefl.bundle import Adapter, Bundle
from edgefl.bundle.personal import current_adapter
from edgefl.core.exits import check_exits
from edgefl.errors import RefusedError
from edgefl.policy import Rules
from edgefl.policy.batching import BatchCosts
from edgefl.predict.costs import warm_up
from edgefl.predict.options import opened_signals
from edgefl.runtime.model import Model
from edgefl.serve.adapter_in_use import AdapterInUse
from edgefl.serve.adapter_watch import AdapterWatch
from edgefl.serve.batch_costs import measure_batches
from edgefl.serve.engine import CallBoundary, Engine
from edgefl.serve.metrics import Metrics
from edgefl.serve.priority import giving_way
from edgefl.serve.requests import Requests
from edgefl.serve.server import Access, Limits, check_access, run_server
from edgefl.serve.service import AnytimeService

__all__ = ["Settings", "serve_bundle"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to serve.

    Attributes:
        folder: The bundle.
        adapter: Its adapter; None for the personal one or the bundle's own, whichever there is.
        memory: The memory knob.
        rules: What the owner of the device wants.
        most_together: Most requests answered together.
        trace: Recorded signals instead of the device's.
        metrics_port: Where Prometheus asks, on the loopback address; None for nowhere.
    """

    folder: Path
    adapter: Path | None
    memory: str
    rules: Rules
    most_together: int
    trace: Path | None
    metrics_port: int | None


async def serve_bundle(settings: Settings, access: Access, limits: Limits) -> None:
    """Serve until the process is told to stop.

    Raises:
        BundleError: If the bundle or its adapter cannot be used.
        ExitsError: If a rule names an exit that it does not have.
        RefusedError: If it may not listen where it is told to.
    """
    check_access(access)  # before anything takes long
    bundle, boundary, rules = Bundle(settings.folder), CallBoundary(), settings.rules
    asked = tuple(exit_index for exit_index in (rules.min_exit, rules.max_exit) if exit_index is not None)
    check_exits(asked, tuple(bundle.manifest.exits), f"bundle {bundle.folder.name}")
    adapter = current_adapter(bundle, settings.adapter)
    in_use = AdapterInUse.of(bundle, adapter)
    model, costs = await giving_way(lambda: _opened(bundle, adapter, in_use, boundary, settings))
    with opened_signals("auto", settings.trace) as source:
        engine = Engine(model, boundary, costs, in_use)
        try:
            metrics = Metrics(
                queue_length=lambda: engine.queue_length,
                pace=lambda: engine.pace.ratio,
                version=lambda: engine.adapter.version,
            )
            _publish(metrics, settings.metrics_port)
            watch = AdapterWatch(bundle, settings.adapter, engine, metrics)
            requests = Requests(model, source, rules, limits.pixels)
            service = AnytimeService(requests, engine, metrics, limits.requests)
            deepest = costs.reached[0][-1] + costs.answer[0]
            logger.info("exit %d takes %.1f ms; up to %d are answered together", model.exits[-1], deepest, costs.most)
            await run_server(
                service,
                access,
                limits,
                started=lambda address: _announce(bundle, address),
                refused=metrics.refused,
                watch=watch.check,
            )
            service.close()
        finally:
            engine.close()


def _opened(
    bundle: Bundle, adapter: Adapter, in_use: AdapterInUse, boundary: CallBoundary, settings: Settings
) -> tuple[Model, BatchCosts]:
    """Return the model, ready, and what its batches take; ONNX Runtime's threads get this thread's priority."""
    model = Model(bundle, adapter, memory=settings.memory, between_calls=boundary)
    model.use_adapter(in_use.tensors)
    Image.init()  # or the first request would wait for Pillow to load its formats
    warm_up(model)
    return model, measure_batches(model, _sizes(settings.most_together))


def _sizes(most: int) -> list[int]:
    """Return the batches to measure: 1, 2, 4 and so on, and the largest."""
    doubling = [1 << power for power in range(most.bit_length())]
    return sorted({*doubling, most})


def _publish(metrics: Metrics, port: int | None) -> None:
    if port is None:
        return
    try:
        server, _ = start_http_server(port, addr="127.0.0.1", registry=metrics.registry)
    except OSError as error:
        raise RefusedError(f"cannot listen on 127.0.0.1:{port} for metrics: {error.strerror}") from error
    logger.info("metrics at http://127.0.0.1:%d/metrics", server.server_port)


def _announce(bundle: Bundle, address: str) -> None:
    """Say on standard output where the service is, for people and for whoever has started it."""
    click.echo(f"serving {bundle.folder.name} at {address}")
