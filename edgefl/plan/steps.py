"""From the counted costs of training programs to what a local step takes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import cast

from edgefl.bundle.manifest import Cost, Manifest
from edgefl.plan.decision import Memory, Step

__all__ = ["training_costs", "training_steps"]

# `train/5` by itself is balanced (FORMAT.md, "Memory knobs").
_TRAINING = re.compile(r"train/(\d{1,4})(?:/(lean|balanced|fast))?")
_VALUE_BYTES = 4


def training_costs(manifest: Manifest, exits: Collection[int]) -> dict[str, Cost]:
    """Return the costs of a bundle's training programs at some exits, by each of their memory knobs, by name."""
    matches = filter(None, map(_TRAINING.fullmatch, (*manifest.programs, *manifest.variants)))
    return {match[0]: manifest.costs[match[0]] for match in matches if int(match[1]) in exits}


def training_steps(costs: Mapping[str, Cost], *, batch: int, flops_per_second: float) -> list[Step]:
    """Return what a local step takes at each exit, by each memory knob, exits rising.

    Args:
        costs: By name: `train/E`, or `train/E/KNOB`.
        batch: Samples of one local step.  The knob fixes how many it takes at once, so memory does not depend on it.
        flops_per_second: What the device sustains; a multiply-accumulate is two.
    """
    steps = {}
    for name, cost in costs.items():
        if (match := _TRAINING.fullmatch(name)) is not None:
            step = Step(
                exit_index=int(match[1]),
                memory=cast(Memory, match[2] or "balanced"),
                planned_bytes=cost.planned_bytes,
                # `fast` packs them, and its planned bytes have them already.
                mapped_bytes=0 if match[2] == "fast" else _VALUE_BYTES * (cost.parameters - cost.trainable_parameters),
                upload_bytes=_VALUE_BYTES * cost.trainable_parameters,
                seconds=2.0 * cost.macs * batch / flops_per_second,
            )
            steps[step.exit_index, step.memory] = step
    return [steps[key] for key in sorted(steps)]
