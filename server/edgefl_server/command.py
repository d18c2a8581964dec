"""`edgefl server`: run a federation on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import msgspec

from edgefl.core.interrupts import interrupted_by_sigterm
from edgefl.core.report import json_option
from edgefl.errors import MissingExtraError
from edgefl_server.settings import Scalar, Settings

# The rest is imported where it is used: who asks for help does not wait for numpy, rich and Flower.
if TYPE_CHECKING:
    from edgefl.bundle import Bundle
    from edgefl.core.report import Report
    from edgefl_server.rounds.history import RoundRecord

__all__ = ["server"]

_Command = TypeVar("_Command", bound=Callable[..., None])
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Settings)}


def _setting(name: str, text: str, choices: list[str] | None = None) -> Callable[[_Command], _Command]:
    """Return an option whose default and type are those of a field of `Settings`."""
    default = _DEFAULTS[name]
    kind = click.Choice(choices) if choices else type(default)
    return click.option(f"--{name.replace('_', '-')}", name, type=kind, default=default, show_default=True, help=text)


@click.group()
def server() -> None:
    """Run a federation: a stock Flower SuperLink with edgefl's tier-aware strategy."""


@server.command()
@click.option("--bundle", "bundle_path", type=click.Path(path_type=Path), required=True, help="The bundle to train.")
@click.option("--rounds", type=int, required=True, help="Rounds in all, those before a restart included.")
@click.option(
    "--state",
    "state_path",
    type=click.Path(path_type=Path),
    default=Path("edgefl-server"),
    show_default=True,
    help="Folder for everything the server keeps; the same folder again goes on at the next round.",
)
@click.option("--port", type=int, default=8000, show_default=True, help="Port for the devices, 0 for any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Only this machine, until devices can be paired.")
@_setting("min_clients", "Clients that must be there before a round starts.")
@click.option(
    "--draw-exit/--own-exit",
    "draws_exit",
    default=_DEFAULTS["draw"] == "uniform",
    show_default=True,
    help="Whether each local step trains a drawn exit up to the client's own, or always its own.",
)
@_setting("optimizer", "The devices' optimizer, fresh in each round.", ["adamw", "sgd"])
@_setting("learning_rate", "The devices' step size in round 1.")
@_setting("momentum", "SGD's momentum, in [0, 1).")
@_setting("weight_decay", "AdamW's decoupled decay.")
@_setting("clip", "Largest norm of a step's gradient, 0 = off.")
@_setting("epochs", "Local epochs in a round.")
@_setting("batch_size", "Samples in a local step.")
@_setting("deadline_seconds", "Longest time a round waits for updates.")
@_setting("quorum", "Share of the cohort, in (0, 1], whose updates make a round count.")
@_setting("grace_seconds", "How long the others still have once the quorum is there.")
@_setting("weighting", "How much an update weighs.", ["equal", "samples"])
@_setting("untouched", "What a parameter counts that a client did not train.", ["keep", "mix_old", "zero"])
@_setting("server_momentum", "Momentum of the server's step, in [0, 1); 0 is plain averaging.")
@_setting("schedule", "How the step size goes with the rounds.", ["cosine", "constant"])
@_setting("seed", "Start of all random numbers.")
@json_option
def run(
    bundle_path: Path,
    state_path: Path,
    port: int,
    host: str,
    draws_exit: bool,
    json_path: str | None,
    **options: Scalar,
) -> None:
    """Train a bundle's adapter on the clients that join."""
    from edgefl.bundle import Bundle
    from edgefl_server.host.state import StateFolder
    from edgefl_server.host.superlink import check_host

    if find_spec("flwr") is None:
        raise MissingExtraError("a server needs Flower, which is not installed; run: pip install 'edgefl[server]'")
    check_host(host)
    bundle = Bundle(bundle_path)
    settings = Settings.from_run_config(
        {
            **options,
            "bundle": str(bundle.folder),
            "state": str(state_path.resolve()),
            "draw": "uniform" if draws_exit else "own",
        }
    )
    say = partial(click.echo, err=json_path == "-")
    rounds, superlink = _serve(settings, bundle, port, say)
    say(f"The newest adapter is {StateFolder(Path(settings.state)).adapter}")
    if json_path is not None:
        _report(settings, rounds, superlink).write(json_path)


def _serve(
    settings: Settings, bundle: Bundle, port: int, say: Callable[[str], None]
) -> tuple[list[RoundRecord], dict[str, str | int]]:
    """Run the rounds that are left; return them and the facts of the SuperLink they ran on."""
    from edgefl.core.folder_lock import locked_folder
    from edgefl_server.host.control import Control
    from edgefl_server.host.state import StateFolder
    from edgefl_server.host.superlink import SuperLink, choose_port
    from edgefl_server.host.watch import Watch
    from edgefl_server.rounds.checkpoint import load_checkpoint

    state = StateFolder(Path(settings.state))
    # Before the folder is made: a port in use leaves nothing behind.
    port = choose_port(port)
    with interrupted_by_sigterm(), locked_folder(state.path, "server"):
        done = load_checkpoint(state.checkpoint, bundle).round
        if done >= settings.rounds:
            say(f"{done} rounds are done already; raise --rounds or choose another --state to go on")
            return [], {}
        watch = Watch(state)
        with SuperLink(state, port) as superlink, Control(superlink.address) as control:
            started = control.start_run(settings)
            say(f"Clients join at http://{superlink.address}")
            return _show(watch.follow(started, superlink), done, settings.rounds), superlink.facts()


def _show(news: Iterable[str | RoundRecord], done: int, total: int) -> list[RoundRecord]:
    """Show log lines and a bar of rounds on standard error; return the rounds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    rounds: list[RoundRecord] = []
    columns = (TextColumn("rounds"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("rounds", total=total, completed=done)
        for item in news:
            if isinstance(item, str):
                progress.console.print(item, markup=False, highlight=False, soft_wrap=True)
            else:
                rounds.append(item)
                progress.update(bar, completed=item.round)
    return rounds


def _report(settings: Settings, rounds: list[RoundRecord], superlink: dict[str, str | int]) -> Report:
    from edgefl.core.report import Label, Record, Report, this_device

    records = []
    for each in rounds:
        labels: dict[str, Label] = {"round": each.round}
        records += [
            Record(name="round_seconds", unit="s", value=each.seconds, labels=labels),
            Record(name="replies", unit="1", value=len(each.replies), labels=labels),
            Record(name="bytes_down", unit="byte", value=each.bytes_down, labels=labels),
            Record(name="bytes_up", unit="byte", value=each.bytes_up, labels=labels),
        ]
    told: dict[str, object] = dict(settings.to_run_config())
    if superlink:  # none where no round was left
        told["superlink"] = superlink
    return Report(command="server run", settings=told, records=records, device=this_device())
