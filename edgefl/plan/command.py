"""`edgefl plan`: the deepest exit that budgets of memory, upload and time afford, without the device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgefl.core.exits import check_exits, parse_exits
from edgefl.core.report import Label, Record, Report, json_option, this_device
from edgefl.core.sizes import ByteSizes
from edgefl.errors import BadInputError, RefusedError
from edgefl.plan.decision import Budget, Decision, Step, decide

if TYPE_CHECKING:  # `edgefl --help` stays light
    from edgefl.bundle.manifest import Cost

__all__ = ["BASELINE", "GFLOPS", "plan"]

BASELINE = "57MB"
"""`baseline_rss` of the records in benchmarks/records/: the resident peak of a process that does the imports alone."""

GFLOPS = 10.0
"""An assumption: lower than any training record in benchmarks/records/, and not measured on a small device."""

_BUDGETS = "64MB,100MB,150MB,250MB,500MB"


def _finite(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise click.BadParameter(f"{value} is no number above 0")
    return value


@click.command()
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--model", help="Instead of DIR: timm's model name or the embedded one; needs edgefl[export].")
@click.option(
    "--memory-budget",
    "memory_budgets",
    type=ByteSizes(several=True),
    multiple=True,
    metavar="SIZE,...",
    default=(_BUDGETS,),
    show_default=True,
    help="Compared with planned bytes and --baseline together; may be given several times.",
)
@click.option("--upload-budget", type=ByteSizes(), metavar="SIZE", help="Of one reply.  [default: no limit]")
@click.option("--step-seconds", type=float, callback=_finite, help="Of one local step.  [default: no limit]")
@click.option(
    "--baseline",
    type=ByteSizes(),
    metavar="SIZE",
    default=BASELINE,
    show_default=True,
    help="What a process takes before it has a tensor: measured `baseline_rss`.",
)
@click.option(
    "--gflops",
    type=float,
    callback=_finite,
    default=GFLOPS,
    show_default=True,
    help="Assumed speed of a step; the true one is 2 x macs x batch / latency of `edgefl measure`.",
)
@click.option("--batch-size", type=click.IntRange(1), default=10, show_default=True, help="Samples of a local step.")
@click.option("--exits", help="Exits to choose from, such as 0-11 or 2,5.  [default: all]")
@click.option("--img-size", type=int, help="With --model: height and width in pixels.  [default: the model's]")
@click.option("--classes", type=click.IntRange(2), help="With --model: number of classes.  [default: 10]")
@click.option("--parallel-adapters", type=click.IntRange(0), help="With --model: their rank.  [default: none]")
@click.option("--mlp-dim", type=click.IntRange(1), help="With --model: hidden size.  [default: 2048 at 384]")
@click.option("--accumulator-heads", type=click.IntRange(1), help="With --model: must divide the width.  [default: 12]")
@json_option
def plan(
    folder: Path | None,
    model: str | None,
    memory_budgets: tuple[tuple[int, ...], ...],
    upload_budget: tuple[int] | None,
    step_seconds: float | None,
    baseline: tuple[int],
    gflops: float,
    batch_size: int,
    exits: str | None,
    json_path: str | None,
    **architecture: int | None,
) -> None:
    """Say which exit a device can train, for each of several memory budgets, from counted costs alone.

    DIR is a bundle. With --model there need not be one yet: the graphs of that model are made and counted with
    random weights, and nothing is written.

    The answer is the deepest exit that fits all budgets with some memory knob, and the fastest such knob.  Sizes
    have units: MB is 10^6 bytes, MiB is 2^20.  Exit code 4 says that no budget affords any exit.
    """
    from edgefl.plan.steps import training_steps
    from edgefl.plan.table import print_decisions, shortfall

    given = {name: value for name, value in architecture.items() if value is not None}
    _check_usage(folder, model, given)
    asked = parse_exits(exits) if exits is not None else None
    if folder is not None:
        what, costs = _bundle_costs(folder, asked)
    else:
        what, costs = _model_costs(str(model), asked, batch_size, given)
    steps = training_steps(costs, batch=batch_size, flops_per_second=1e9 * gflops)
    budgets = [
        Budget(
            memory_bytes=memory_bytes,
            baseline_bytes=baseline[0],
            upload_bytes=upload_budget[0] if upload_budget else math.inf,
            step_seconds=step_seconds or math.inf,
        )
        for memory_bytes in itertools.chain.from_iterable(memory_budgets)
    ]
    decisions = {budget: decide(steps, budget) for budget in budgets}
    title = f"{what['model']}, one local step, batch {batch_size}"
    print_decisions(decisions, title, gflops, to_stderr=json_path == "-")
    if json_path:
        settings = {**what, "batch": batch_size, "step_seconds": step_seconds, "gflops": gflops}
        settings |= {"upload_budget": upload_budget and upload_budget[0], "baseline": baseline[0]}
        _report(settings, steps, decisions).write(json_path)
    if not any(decision.affordable for decision in decisions.values()):
        largest = max(decisions, key=lambda budget: budget.memory_bytes)
        raise RefusedError(f"no budget affords an exit: {shortfall(largest, decisions[largest])}")


def _check_usage(folder: Path | None, model: str | None, given: Mapping[str, int]) -> None:
    if (folder is None) == (model is None):
        raise click.UsageError("name a bundle's folder or a --model, one of the two")
    if folder is not None and given:
        option = "--" + next(iter(given)).replace("_", "-")
        raise click.UsageError(f"{option} describes a --model; the bundle in {folder} has its own")


def _bundle_costs(folder: Path, asked: tuple[int, ...] | None) -> tuple[dict[str, object], Mapping[str, Cost]]:
    """Return what is planned, for the report, and the costs of its training programs by name."""
    from edgefl.bundle import Bundle
    from edgefl.plan.steps import training_costs

    manifest = Bundle(folder).manifest
    if asked is not None:
        check_exits(asked, tuple(manifest.exits), f"bundle {folder.name}")
    costs = training_costs(manifest, asked if asked is not None else manifest.exits)
    if not costs:
        raise BadInputError(f"the bundle in {folder} has no training program to plan; export it again")
    return {"bundle": manifest.bundle_id, "model": manifest.model.name}, costs


def _model_costs(
    model: str, asked: tuple[int, ...] | None, batch: int, given: Mapping[str, int]
) -> tuple[dict[str, object], Mapping[str, Cost]]:
    """Return the same of a model that is no bundle yet."""
    from edgefl.plan.models import ModelDescription, costs_of_model

    chosen: dict[str, Any] = {"image_size": given.get("img_size"), "classes": given.get("classes", 10)}
    chosen |= {"accumulator_heads": given.get("accumulator_heads", 12), "mlp_dim": given.get("mlp_dim")}
    chosen |= {"parallel_adapters": given.get("parallel_adapters", 0)}
    return {"model": model, **chosen}, costs_of_model(ModelDescription(name=model, exits=asked, batch=batch, **chosen))


def _report(settings: Mapping[str, object], steps: Sequence[Step], decisions: Mapping[Budget, Decision]) -> Report:
    exits = sorted({step.exit_index for step in steps})
    budgets = [budget.memory_bytes for budget in decisions]
    records = [record for budget, decision in decisions.items() for record in _records(budget, decision)]
    whole = {**settings, "exits": exits, "memory_budgets": budgets}
    return Report(command="plan", settings=whole, records=records, device=this_device())


def _records(budget: Budget, decision: Decision) -> list[Record]:
    """Return what a budget affords; nothing where that is no exit."""
    if not decision.affordable:
        return []
    step = decision.step
    labels: dict[str, Label] = {"memory_budget": budget.memory_bytes, "memory": step.memory}
    labels["limit"] = " and ".join(decision.limits) or "none"
    return [
        Record(name="planned_exit", unit="1", value=step.exit_index, labels=labels),
        Record(name="planned_bytes", unit="byte", value=step.planned_bytes, labels=labels, method="counted"),
        Record(name="mapped_weights", unit="byte", value=step.mapped_bytes, labels=labels, method="counted"),
        Record(name="upload_bytes", unit="byte", value=step.upload_bytes, labels=labels, method="counted"),
        Record(name="step_seconds", unit="s", value=step.seconds, labels=labels, method="counted at assumed speed"),
    ]
