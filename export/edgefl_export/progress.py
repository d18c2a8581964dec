"""The progress bar of an export, on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from edgefl_export.lowering import Progress as Report

__all__ = ["shown_progress"]


@contextmanager
def shown_progress() -> Iterator[Report]:
    """Give a function that moves a bar; the bar is gone at the end."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting")

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield report
