"""The paper's Table 7 beside the measured exits, as people read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edgefl.bundle.manifest import Cost
from edgefl.core.report import Record
from edgefl.measure.paper import FLOPS, FROZEN_PEAK, PARAMS, PEAK, compare_memory

__all__ = ["print_paper"]

_COLUMNS = (
    "exit",
    "FLOPs (GB)",
    "GMAC here",
    "Params (MB)",
    "M here",
    "Mem peak (MB)",
    "Mem peak frozen (MB)",
    "net peak here, MB",
    "of frozen",
)


def print_paper(records: Sequence[Record], costs: Mapping[str, Cost], *, to_stderr: bool) -> None:
    """Print the table's four rows as columns, each beside its counterpart here.

    Args:
        records: As `measure_exits` yields them, of a setting that `check_setting` allows.
        costs: The bundle's.
        to_stderr: Whether standard output is taken.
    """
    net, ratio = _net_peaks(records), {r.labels["exit"]: r.value for r in compare_memory(records)}
    table = Table(title="Table 7 of the paper (arXiv 2212.04084), and here", box=SIMPLE_HEAD, pad_edge=False)
    for heading in _COLUMNS:
        table.add_column(heading, justify="right")
    for e in range(len(FLOPS.values)):
        infer = costs[f"infer/{e}"]
        measured = (f"{net[e] / 1e6:.0f}", f"{ratio[e]:.2f}") if e in net else ("", "")
        table.add_row(
            str(e),
            f"{FLOPS.values[e]:.2f}{'*' if e in FLOPS.slips else ''}",
            f"{infer.macs / 1e9:.2f}",
            f"{PARAMS.values[e]:.2f}",
            f"{infer.parameters / 1e6:.2f}",
            f"{PEAK.values[e]:.0f}",
            f"{FROZEN_PEAK.values[e]:.0f}",
            *measured,
        )
    console = Console(stderr=to_stderr, highlight=False)
    console.print(table)
    slips = " and ".join(f"{FLOPS.values[e]} at exit {e} for about {likely}" for e, likely in FLOPS.slips.items())
    console.print(
        f"* Slips of the paper: {slips}, as the slope of the row says.\n"
        "FLOPs (GB) are giga multiply-accumulates of the backbone alone; GMAC here are those of infer, Accumulator and "
        "head included, rows that nobody reads left out.\n"
        "Params (MB) are millions; the architecture does not explain them. M here are all parameters infer reads.\n"
        "Mem peak frozen is what the Accumulator trains like. Net peak here is peak_rss - baseline_rss of the local "
        "step, mapped weights included; the ratio is to Mem peak frozen."
    )


def _net_peaks(records: Sequence[Record]) -> dict[object, float]:
    peaks = {record.labels["exit"]: record.value for record in records if record.name == "peak_rss"}
    return {r.labels["exit"]: peaks[r.labels["exit"]] - r.value for r in records if r.name == "baseline_rss"}
