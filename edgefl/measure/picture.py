"""Measured exits as a table, and with the extra `plot` as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edgefl.core.atomic import check_writable
from edgefl.core.report import Record
from edgefl.errors import BadInputError, StorageError

__all__ = ["check_picture", "draw", "print_table", "stderr_console"]

_PICTURES = (".pdf", ".png", ".svg")

_COLUMNS = {
    "peak_rss": ("peak, MB", 1e-6),
    "anonymous_peak": ("of it anonymous, MB", 1e-6),
    "mapped_weights": ("mapped weights, MB", 1e-6),
    "planned_bytes": ("planned, MB", 1e-6),
    "latency": ("median, ms", 1.0),
    "latency_p95": ("p95, ms", 1.0),
    "macs": ("MMAC a sample", 1e-6),
    "parameters": ("parameters, M", 1e-6),
}


def stderr_console() -> Console:
    """Return where progress is shown."""
    return Console(stderr=True)


def print_table(records: Sequence[Record], *, to_stderr: bool) -> None:
    """Print one row for each exit."""
    rows = _rows(records)
    first = records[0].labels
    baseline = next(record.value for record in records if record.name == "baseline_rss")
    table = Table(title=f"{first['mode']}, batch {first['batch']}; the imports alone peak at {baseline / 1e6:.0f} MB")
    for heading in ("exit", *(heading for heading, _ in _COLUMNS.values())):
        table.add_column(heading, justify="right")
    for exit_index, values in rows.items():
        table.add_row(str(exit_index), *(f"{values[name] * scale:.1f}" for name, (_, scale) in _COLUMNS.items()))
    Console(stderr=to_stderr).print(table)


def check_picture(path: Path) -> None:
    """Refuse before the measuring what could not be drawn after it.

    Raises:
        BadInputError: If the ending names no format.
        StorageError: If the file cannot be written.
        ModuleNotFoundError: If the extra `plot` is not installed.
    """
    if path.suffix not in _PICTURES:
        raise BadInputError(f"--plot {path} has no ending of {', '.join(_PICTURES)}; name the file accordingly")
    check_writable(path)
    import_module("matplotlib.figure")


def draw(records: Sequence[Record], path: Path) -> None:
    """Draw memory peak and latency over the exits.

    Args:
        records: As `measure_exits` yields them.
        path: Picture to write, as `check_picture` allows.

    Raises:
        StorageError: If it cannot be written.
    """
    from matplotlib.figure import Figure  # an extra

    rows = _rows(records)
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    for axes, name, label in zip(
        figure.subplots(1, 2), ("peak_rss", "latency"), ("memory peak, MB", "median latency, ms"), strict=True
    ):
        _, scale = _COLUMNS[name]
        axes.bar([str(exit_index) for exit_index in rows], [values[name] * scale for values in rows.values()])
        axes.set_xlabel("exit")
        axes.set_ylabel(label)
    try:
        figure.savefig(path)
    except OSError as error:
        raise StorageError(f"cannot draw {path}: {error.strerror}; free some space and try again") from error


def _rows(records: Sequence[Record]) -> dict[object, dict[str, float]]:
    rows: dict[object, dict[str, float]] = {}
    for record in records:
        rows.setdefault(record.labels["exit"], {})[record.name] = record.value
    return rows
