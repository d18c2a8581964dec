"""Time a policy decision, and find what stopping at the first exit that is sure enough is worth on the demo's digits.

The confidence policy is calibrated on one half of the demo's held-out digits and judged on the other, for several ways
to halve them: no digit that a threshold is judged on has been seen by it, nor by any training.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.comparison import Progress, print_table, run_script
from edgefl.bundle import Bundle
from edgefl.calibrate.answers import answer
from edgefl.calibrate.outcome import calibrate_exits
from edgefl.core.report import Record, Report, json_option, this_device
from edgefl.core.signals import Signals
from edgefl.errors import EdgeFLError
from edgefl.policy import ExitCost, Request, Rules, choose_exit, why_stop
from edgefl.predict.calibration import Calibration, confidence
from edgefl.predict.costs import measure_costs
from edgefl.runtime.model import Model
from edgefl.samples import open_samples

HEADINGS = ("half", "exit 11\n%", "policy\n%", "lost\npoints", "exit 11\nms", "policy\nms", "cost\nratio", "mean exit")
MAX_LOSS = 0.005
_DECISIONS = 2000
_SUMMARIES: dict[str, Callable[[Sequence[float]], float]] = {"mean": statistics.fmean, "least": min, "most": max}
_BUSY = Signals(charge=0.4, charging=False, power_save=False, celsius=65.0, throttled=False)
_ASKED = Request(deadline_ms=50.0, energy_mj=100.0, thresholds=dict.fromkeys(range(12), 0.9))
_RULES = Rules(min_exit=1, max_exit=10)


@click.command()
@click.option("--demo", type=click.Path(path_type=Path), help="Output of `edgefl demo`.  [default: run it now]")
@click.option("--halves", type=click.IntRange(1), default=20, show_default=True, help="Ways to halve the digits.")
@json_option
def policy(demo: Path | None, halves: int, json_path: str | None) -> None:
    """Time decisions, and compare the confidence policy with always answering at the deepest exit."""
    with ExitStack() as stack:
        progress = stack.enter_context(Progress())
        if demo is None:
            progress("running the demo")
            demo = Path(stack.enter_context(tempfile.TemporaryDirectory()), "demo")
            _run_demo(demo)
        progress("answering the held-out digits")
        bundle = Bundle(demo / "bundle")
        adapter = bundle.adapter(demo / "server" / "adapter.safetensors")
        model = Model(bundle, adapter)
        samples = open_samples(str(demo / "held-out"), bundle.manifest.model.classes)
        logits = np.concatenate(list(answer(model, samples)), axis=1)
        costs = measure_costs(model, repetitions=50)
        progress("judging the policy")
        outcomes: list[tuple[float, ...]] = []
        for seed in range(halves):
            order = np.random.default_rng(seed).permutation(len(samples.labels))
            for seen, unseen in ((order[::2], order[1::2]), (order[1::2], order[::2])):
                found = calibrate_exits(adapter, logits[:, seen], samples.labels[seen], costs, MAX_LOSS)
                outcomes.append(_judged(found.calibration, logits[:, unseen], samples.labels[unseen], costs))
    records = [*_decision_times(costs), *_records(outcomes)]
    rows = {kind: [of(column) for column in zip(*outcomes, strict=True)] for kind, of in _SUMMARIES.items()}
    title = f"{len(outcomes)} halves of {len(samples.labels)} digits; a decision takes {1000 * records[0].value:.1f} us"
    print_table(title, HEADINGS, rows, to_stderr=json_path == "-")
    if json_path:
        settings: dict[str, object] = {"halves": len(outcomes), "max_loss": MAX_LOSS, "samples": len(samples.labels)}
        Report(command="benchmarks/policy.py", settings=settings, records=records, device=this_device()).write(
            json_path
        )


def _run_demo(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgefl", "demo", "--out", str(folder)], stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        raise EdgeFLError("the demo has failed, see above")


def _judged(
    calibration: Calibration,
    logits: np.ndarray[Any, np.dtype[np.float32]],
    labels: np.ndarray[Any, np.dtype[np.int64]],
    costs: Sequence[ExitCost],
) -> tuple[float, ...]:
    """Return what the columns of the table name, of samples that the calibration has not seen."""
    times = np.array([cost.milliseconds for cost in costs], np.float64)
    sure = np.stack([confidence(logits[e], each.temperature) for e, each in enumerate(calibration.exits)])
    enough = sure >= np.array([each.threshold for each in calibration.exits])[:, None]
    stops = enough.argmax(axis=0)  # the deepest exit's threshold is 0
    right = logits.argmax(-1) == labels
    accuracy = 100.0 * float(right[stops, np.arange(len(labels))].mean())
    deepest = 100.0 * float(right[-1].mean())
    cost = float(times[stops].mean())
    return deepest, accuracy, deepest - accuracy, float(times[-1]), cost, cost / float(times[-1]), float(stops.mean())


def _decision_times(costs: Sequence[ExitCost]) -> list[Record]:
    """Time a decision with all rules at work, and a look at whether to stop."""
    decision = choose_exit(costs, _BUSY, _ASKED, _RULES, 5)
    works: dict[str, Callable[[], object]] = {
        "choose": lambda: choose_exit(costs, _BUSY, _ASKED, _RULES, 5),
        "stop": lambda: why_stop(decision, costs, _ASKED, costs[0].exit_index, 0.5, 1.0),
    }
    return [_timed(work, what) for what, work in works.items()]


def _timed(work: Callable[[], object], what: str) -> Record:
    times = []
    for _ in range(_DECISIONS):
        started = time.perf_counter()
        work()
        times.append(1000.0 * (time.perf_counter() - started))
    return Record(
        name="decision_ms", unit="ms", value=statistics.median(times), min=min(times), max=max(times),
        repetitions=len(times), labels={"what": what},
    )  # fmt: skip


def _records(outcomes: Sequence[tuple[float, ...]]) -> list[Record]:
    names = {
        "deepest_accuracy": ("1", 0.01),
        "policy_accuracy": ("1", 0.01),
        "accuracy_loss": ("1", 0.01),
        "deepest_cost_ms": ("ms", 1.0),
        "policy_cost_ms": ("ms", 1.0),
        "cost_ratio": ("1", 1.0),
        "mean_exit": ("1", 1.0),
    }
    records = []
    for (name, (unit, scale)), column in zip(names.items(), zip(*outcomes, strict=True), strict=True):
        values = [scale * value for value in column]
        records.append(
            Record(
                name=name,
                unit=unit,
                value=statistics.fmean(values),
                min=min(values),
                max=max(values),
                repetitions=len(values),
                method="mean over the halves",
            )
        )
    return records


if __name__ == "__main__":
    run_script(policy)
