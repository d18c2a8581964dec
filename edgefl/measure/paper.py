"""Table 7 of the paper (arXiv 2212.04084): what each exit of DeiT-S costs there, to stand beside what it costs here.

Measured there at 160 x 160 pixels, batch 10, SGD with momentum, with the blocks up to the exit alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgefl.bundle.manifest import Manifest
from edgefl.core.report import Record
from edgefl.errors import BadInputError

__all__ = ["FLOPS", "FROZEN_PEAK", "PARAMS", "PEAK", "Row", "check_setting", "compare_memory", "paper_records"]

_BATCH = 10
_DEIT_SMALL = {"image_size": 160, "patch_size": 16, "channels": 3, "width": 384, "blocks": 12, "mlp_width": 1536}
_EXITS = list(range(12))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table.

    Attributes:
        name: As it is printed there.
        unit: Of the values as we understand them, which is not always what is printed.
        values: One for each exit, as printed.
        scale: What one of them stands for, in the unit.
        slips: By exit, what a value that must be a slip of the pen is likely to be, from the slope of its row.
        remark: What the numbers are.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    scale: int
    slips: dict[int, float]
    remark: str

    def value(self, exit_index: int) -> int:
        """Return the value as printed, in the unit."""
        return round(self.values[exit_index] * self.scale)

    def method(self, exit_index: int) -> str:
        """Return what the number is, and whether it is a slip."""
        likely = self.slips.get(exit_index)
        return self.remark if likely is None else f"{self.remark}; a slip, about {likely} is meant"


FLOPS = Row(
    name="FLOPs (GB)",
    unit="1",
    values=(0.21, 0.40, 0.57, 0.67, 0.95, 1.13, 1.31, 1.50, 1.69, 1.88, 2.07, 2.67),
    scale=10**9,
    slips={3: 0.77, 11: 2.27},
    remark="multiply-accumulates of the backbone alone, one sample",
)
PARAMS = Row(
    name="Params (MB)",
    unit="1",
    values=(2.54, 4.34, 6.15, 7.96, 9.77, 11.57, 13.38, 15.19, 16.99, 18.80, 20.60, 22.41),
    scale=10**6,
    slips={},
    remark="millions; the architecture does not explain them",
)
PEAK = Row(
    name="Mem peak (MB)",
    unit="byte",
    values=(67, 123, 179, 236, 293, 350, 407, 464, 522, 580, 638, 670),
    scale=10**6,
    slips={},
    remark="training everything up to the exit",
)
FROZEN_PEAK = Row(
    name="Mem peak frozen (MB)",
    unit="byte",
    values=(47, 62, 98, 134, 170, 206, 242, 279, 315, 352, 389, 426),
    scale=10**6,
    slips={},
    remark="training the adapter beside a frozen backbone",
)
_ROWS = (FLOPS, PARAMS, PEAK, FROZEN_PEAK)


def check_setting(manifest: Manifest, mode: str, batch: int) -> None:
    """Refuse what would not be comparable.

    Args:
        manifest: Of the bundle to measure.
        mode: `infer` or `train`.
        batch: Samples of one local step.

    Raises:
        BadInputError: If it is not a local step of DeiT-S with 12 exits, 160 x 160 pixels, batch 10.
    """
    different = [
        f"{name} {getattr(manifest.model, name)} instead of {expected}"
        for name, expected in _DEIT_SMALL.items()
        if getattr(manifest.model, name) != expected
    ]
    if manifest.exits != _EXITS:
        different.append(f"exits {manifest.exits} instead of 0 to 11")
    if mode != "train":
        different.append(f"--mode {mode} instead of train")
    if batch != _BATCH:
        different.append(f"--batch-size {batch} instead of {_BATCH}")
    if different:
        raise BadInputError(
            f"Table 7 of the paper is of training DeiT-S at 160 x 160 pixels, batch 10; here: {', '.join(different)}. "
            "Use --mode train --batch-size 10, and a bundle of edgefl export --model deit_small_patch16_224 "
            "--img-size 160 --classes 100"
        )


def paper_records() -> list[Record]:
    """Return the whole table, as printed."""
    return [
        Record(
            name="table_7",
            unit=row.unit,
            value=row.value(e),
            labels={"source": "paper", "exit": e, "row": row.name},
            method=row.method(e),
        )
        for row in _ROWS
        for e in _EXITS
    ]


def compare_memory(measured: Sequence[Record]) -> list[Record]:
    """Return, for each measured exit, its memory net of the imports divided by the paper's with a frozen backbone.

    Args:
        measured: As `measure_exits` yields them.
    """
    baselines = {record.labels["exit"]: record.value for record in measured if record.name == "baseline_rss"}
    return [
        Record(
            name="peak_net_ratio",
            unit="1",
            value=(record.value - baselines[e]) / FROZEN_PEAK.value(e),
            labels={**record.labels, "against": "paper"},
            method="(peak_rss - baseline_rss) / Mem peak frozen",
        )
        for record in measured
        if record.name == "peak_rss" and isinstance(e := record.labels["exit"], int)
    ]
