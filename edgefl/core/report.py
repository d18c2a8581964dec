"""Measured numbers as records with unit, labels and spread: what `--json` writes (docs/reports.md)."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import click
import msgspec
import psutil

from edgefl.core.atomic import check_writable, write_atomically
from edgefl.version import __version__

__all__ = ["Device", "Label", "Record", "Report", "json_option", "this_device"]

Label = str | int | float | bool
_Command = TypeVar("_Command", bound=Callable[..., None])


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measured or counted value.

    Attributes:
        name: What was measured, as listed in docs/reports.md.
        unit: `byte`, `ms`, `s`, `mJ`, or `1` for a fraction or a count.
        value: The median where it was measured more than once.
        labels: What the value belongs to, such as the exit and the mode.
        min: The smallest of the repetitions.
        max: The largest of the repetitions.
        repetitions: How often it was measured.
        method: How, where more than one way exists.
    """

    name: str
    unit: str
    value: float
    labels: dict[str, Label] = {}
    min: float | None = None
    max: float | None = None
    repetitions: int | None = None
    method: str | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """The hardware and interpreter that a report was made on.

    Attributes:
        machine: Processor architecture, such as `x86_64` or `aarch64`.
        processor: The processor's own name, empty where the system does not tell.
        cores: Logical processors this process may use.
        memory_bytes: Physical memory.
        system: Operating system and its version.
        python: Version of the interpreter.
    """

    machine: str
    processor: str
    cores: int
    memory_bytes: int
    system: str
    python: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The document a command writes with `--json`.

    Attributes:
        command: The edgefl command that wrote it.
        settings: What the command was told, so that it can be repeated.
        records: The values.
        device: Where they were measured.
        schema: Name and version of this layout.
        edgefl: Version of edgefl.
    """

    command: str
    settings: Mapping[str, object]
    records: list[Record]
    device: Device
    schema: str = "edgefl.report/1"
    edgefl: str = __version__

    def write(self, path: str) -> None:
        """Write the report to a file, or to standard output for `-`.

        Raises:
            StorageError: If the file cannot be written.
        """
        text = msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"
        if path == "-":
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()
        else:
            write_atomically(Path(path), [text])


def _writable(_context: click.Context, _option: click.Parameter, path: str | None) -> str | None:
    if path is not None and path != "-":
        check_writable(Path(path))
    return path


def json_option(command: _Command) -> _Command:
    """Give a command the option `--json`; a path that cannot be written is refused before the work."""
    what = "Write a report there; - is standard output."
    return click.option("--json", "json_path", metavar="PATH", callback=_writable, help=what)(command)


def this_device() -> Device:
    """Describe the machine this process runs on."""
    return Device(
        machine=platform.machine(),
        processor=_processor_name(),
        cores=len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def _processor_name() -> str:
    """Return the name in /proc/cpuinfo: `model name` on x86, `Model` on a Raspberry Pi."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    named = [line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() in {"model name", "Model"}]
    return named[0] if named else platform.processor()
