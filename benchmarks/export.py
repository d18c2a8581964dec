"""Time the export of a bundle, inference and training with all memory knobs, each time in a fresh process."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from benchmarks.comparison import Progress, print_table, run_export, run_script, value_of
from benchmarks.options import model_options, write_report
from benchmarks.setting import Setting
from edgefl.core.exits import format_exits, parse_exits
from edgefl.core.report import Record, Report

COLUMNS = {
    "export_seconds": ("seconds", 1.0),
    "peak_rss": ("peak, MB", 1e-6),
    "bundle_bytes": ("bundle, MB", 1e-6),
    "weight_bytes": ("weights, MB", 1e-6),
    "bundle_bytes_ratio": ("bundle / weights", 1.0),
}


@click.command()
@model_options(exits="0-11", image_size=160, batch=10, repetitions=1)
def export(
    model: str, exits: str, img_size: int, batch_size: int, classes: int, repetitions: int, json_path: str | None
) -> None:
    """Time the export of a bundle with random weights."""
    wanted = parse_exits(exits)
    setting = Setting(model=model, image_size=img_size, classes=classes, batch=batch_size)
    found: list[list[Record]] = []
    with Progress() as progress:
        for done in range(repetitions):
            progress(f"export {done + 1} of {repetitions}")
            found.append(_export(setting, wanted))
    records = _records(found)
    row = [value_of(records, name) * scale for name, (_, scale) in COLUMNS.items()]
    headings = ["exits", *(heading for heading, _ in COLUMNS.values())]
    print_table(f"export of {model}", headings, {format_exits(wanted): row}, to_stderr=json_path == "-")
    if json_path:
        settings: dict[str, object] = {"exits": list(wanted), "repetitions": repetitions}
        write_report(json_path, "benchmarks/export.py", setting, settings, records)


def _export(setting: Setting, exits: tuple[int, ...]) -> list[Record]:
    """Export once and return what the command reports, its time replaced by that of the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        started = time.perf_counter()
        run_export(setting, exits, "--out", str(Path(folder, "bundle")), "--json", str(report))
        seconds = time.perf_counter() - started
        reported = msgspec.json.decode(report.read_bytes(), type=Report).records
    kept = [record for record in reported if record.name in {"peak_rss", "bundle_bytes", "weight_bytes"}]
    return [Record(name="export_seconds", unit="s", value=seconds, method="the whole process, imports too"), *kept]


def _records(found: Sequence[Sequence[Record]]) -> list[Record]:
    """Return the median of each record over the repetitions, and the bundle's size over its weights'."""
    records = [
        msgspec.structs.replace(
            same[0],
            value=statistics.median(record.value for record in same),
            min=min(record.value for record in same),
            max=max(record.value for record in same),
            repetitions=len(same),
        )
        for same in zip(*found, strict=True)
    ]
    ratio = value_of(records, "bundle_bytes") / value_of(records, "weight_bytes")
    return [*records, Record(name="bundle_bytes_ratio", unit="1", value=ratio, labels={"against": "weights"})]


if __name__ == "__main__":
    run_script(export)
