"""The options of the benchmarks, and the facts that all their reports hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from benchmarks.setting import Setting
from edgefl.core.report import Record, Report, json_option, this_device

__all__ = ["model_options", "peer_options", "write_report"]

_Command = TypeVar("_Command", bound=Callable[..., None])


def model_options(*, exits: str, image_size: int, batch: int, repetitions: int) -> Callable[[_Command], _Command]:
    """Give a benchmark the options that say what it runs, with its own defaults, and `--json`."""
    return _all_of(
        click.option(
            "--model", default="deit_small_patch16_224", show_default=True, help="timm's; weights are random."
        ),
        click.option("--exits", default=exits, show_default=True, help="Exits, such as 0-11 or 2,5."),
        click.option("--img-size", type=int, default=image_size, show_default=True, help="Pixels of a sample's side."),
        click.option("--batch-size", type=click.IntRange(1), default=batch, show_default=True, help="Samples."),
        click.option("--classes", type=click.IntRange(2), default=100, show_default=True, help="Number of classes."),
        click.option(
            "--repetitions", type=click.IntRange(1), default=repetitions, show_default=True, help="Of everything timed."
        ),
        json_option,
    )


def peer_options() -> Callable[[_Command], _Command]:
    """Give a benchmark the options of a comparison with other sides."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "edgefl", "one_graph")
    return _all_of(
        click.option("--threads", type=click.IntRange(1, 1024), default=2, show_default=True, help="Of each side."),
        click.option(
            "--cache",
            type=click.Path(path_type=Path),
            default=cache,
            help="Folder where the one-graph peers are kept.  [default: in the user's cache]",
        ),
    )


def _all_of(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def give(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return give


def write_report(path: str, script: str, setting: Setting, settings: dict[str, object], records: list[Record]) -> None:
    """Write what a benchmark found.

    Args:
        path: The file, or - for standard output.
        script: The script.
        setting: Model and batch.
        settings: What else it was told or chose.
        records: What it found.

    Raises:
        StorageError: If the file cannot be written.
    """
    versions = {name: version(name) for name in ("onnxruntime", "torch", "onnx", "timm")}
    everything = {**msgspec.structs.asdict(setting), **settings, "versions": versions}
    Report(command=script, settings=everything, records=records, device=this_device()).write(path)
