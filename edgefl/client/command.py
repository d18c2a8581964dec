"""`edgefl client`: make this device a client of a federation."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgefl.core.report import json_option
from edgefl.core.sizes import ByteSizes

if TYPE_CHECKING:
    from edgefl.client.session import Session
    from edgefl.core.report import Report
    from edgefl.fleet.transport import Transport
    from edgefl.runtime.feature_cache import FeatureCache
    from edgefl.runtime.model import Model

__all__ = ["client"]

_STATE = Path("~/.local/state/edgefl/client")


@click.group()
def client() -> None:
    """Take part in a federation with this device's own samples."""


@client.command()
@click.option("--server", "url", required=True, help="Address of the server, such as http://127.0.0.1:8000.")
@click.option("--bundle", "folder", required=True, type=click.Path(path_type=Path), help="The bundle's folder.")
@click.option("--samples", required=True, metavar="FOLDER|MODULE:FUNCTION", help="Local samples with their labels.")
@click.option("--deepest-exit", type=click.IntRange(0), help="Deepest exit to train.  [default: the bundle's]")
@click.option(
    "--memory",
    type=click.Choice(["lean", "balanced", "fast"]),
    default="balanced",
    show_default=True,
    help="What training may take for its speed.",
)
@click.option(
    "--feature-cache",
    type=ByteSizes(),
    default="256MB",
    show_default=True,
    help="Disk for what no round changes of a sample; 0B for none.",
)
@click.option("--state", type=click.Path(path_type=Path), default=_STATE, show_default=True, help="Key and journal.")
@click.option("--connect-seconds", type=click.FloatRange(0), default=20.0, show_default=True, help="Before giving up.")
@click.option("--wait", is_flag=True, help="Never give up before the server has answered once.")
@json_option
def run(
    url: str,
    folder: Path,
    samples: str,
    deepest_exit: int | None,
    memory: str,
    feature_cache: tuple[int, ...],
    state: Path,
    connect_seconds: float,
    wait: bool,
    json_path: str | None,
) -> None:
    """Join the federation at a server and take part until this process is stopped (SIGTERM or ctrl-C).

    Before it joins, the client replays the bundle's golden values at the exits it trains (see `edgefl selftest`); a
    device that computes something else ends with 4.
    """
    from edgefl.client.service import serve
    from edgefl.client.session import Session
    from edgefl.core.exits import check_exits
    from edgefl.core.folder_lock import locked_folder
    from edgefl.fleet.identity import Identity
    from edgefl.fleet.journal import Journal
    from edgefl.fleet.node import Node
    from edgefl.fleet.transport import Transport
    from edgefl.runtime.feature_cache import FeatureCache
    from edgefl.runtime.model import load
    from edgefl.samples import open_samples

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    model = load(folder, memory=memory)
    deepest = model.exits[-1] if deepest_exit is None else deepest_exit
    check_exits((deepest,), model.exits, f"bundle {folder.name}")
    local = open_samples(samples, model.bundle.manifest.model.classes)
    _check_device(model, deepest)
    stop = _stop_on_signals()
    with locked_folder(state.expanduser(), "client") as own, FeatureCache(own, *feature_cache) as cache:
        session = Session(model, local, deepest, stop=stop, cache=cache)
        journal = Journal(own)
        transport = Transport(
            url,
            Identity.load_or_create(journal.key_file),
            stop=stop,
            connect_seconds=None if wait else connect_seconds,
        )
        with Node(transport, journal, work=session.work_digest) as node:
            click.echo(f"joined {url} as node {node.node_id}, training up to exit {deepest}", err=True)
            serve(node, session)
    if json_path:
        settings = {"server": url, "bundle": model.bundle.manifest.bundle_id, "samples": samples, "memory": memory}
        _report(session, transport, cache, settings).write(json_path)


def _check_device(model: Model, deepest_exit: int) -> None:
    """Replay the golden values that this device can afford, and refuse to join with wrong arithmetic."""
    from edgefl.core.exits import format_exits
    from edgefl.selftest.replay import affordable_programs, replay

    found = replay(model, affordable_programs(model, deepest_exit))
    found.check()
    exits = format_exits(tuple({deviation.exit_index for deviation in found.deviations}))
    click.echo(
        f"self-test passed at exit {exits}: within {found.largest:.0e} of the exporter, {found.seconds:.1f} s", err=True
    )


def _stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and ctrl-C set, so that the node leaves properly."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _report(session: Session, transport: Transport, cache: FeatureCache, settings: Mapping[str, object]) -> Report:
    from edgefl.core.report import Label, Record, Report, this_device
    from edgefl.measure.memory import peak_rss

    labels: dict[str, Label] = {"exit": session.deepest_exit}
    modules = sorted({name.partition(".")[0] for name in sys.modules})
    return Report(
        command="client run",
        settings={**settings, "exit": session.deepest_exit, "pid": os.getpid(), "modules": modules},
        records=[
            Record(name="bytes_up", unit="byte", value=transport.bytes_up, labels=labels),
            Record(name="bytes_down", unit="byte", value=transport.bytes_down, labels=labels),
            Record(name="peak_rss", unit="byte", value=peak_rss(), labels=labels, method="VmHWM"),
            Record(name="feature_cache", unit="byte", value=cache.used_bytes, labels=labels),
            Record(name="rounds", unit="1", value=session.rounds, labels=labels),
        ],
        device=this_device(),
    )
