"""Local epochs on a device's own samples: the inner loop of every federated method edgefl has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgefl.core.tensor_slice import TensorSlice, merge_slices
from edgefl.errors import InstructionError
from edgefl.runtime.feature_cache import FeatureCache
from edgefl.runtime.gradients import Gradients
from edgefl.runtime.model import Model
from edgefl.runtime.optimizer import AdamW, Sgd
from edgefl.runtime.step_inputs import CachedInputs, DecodedInputs, StepInputs
from edgefl.runtime.weights import FloatArray
from edgefl.samples import Samples

__all__ = ["LocalPlan", "LocalResult", "train_locally"]

# A server chooses the batch, but not how many decoded samples a device holds at once.
_SAMPLES_AT_ONCE = 64

_Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlan:
    """What to do with the samples.

    Attributes:
        exit_index: The exit to train, or the deepest that may be drawn.
        draw: `own` trains `exit_index` in every step; `uniform` draws one of the bundle's exits up to it.
        seed: Of the order of samples and of the draw.
        optimizer: `sgd` or `adamw`, fresh.
        learning_rate: Its step size.
        momentum: SGD's.
        weight_decay: AdamW's.
        clip: Largest norm of a step's gradient; 0 for no clipping.
        epochs: How often each sample is used.
        batch_size: Samples in one step; the last step of an epoch may have fewer.
        trained: Adapter tensors to train, by name; None for all.  Of the others no gradient is made.
    """

    exit_index: int
    draw: Literal["own", "uniform"]
    seed: int
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    momentum: float
    weight_decay: float
    clip: float
    epochs: int
    batch_size: int
    trained: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResult:
    """What came of it.

    Attributes:
        coverage: The parts of the adapter that at least one step reached, none of them twice.
        loss: Mean over the samples trained on of the loss of the last step that used each: of the last epoch, when
            all epochs were finished.  NaN without any step.
        steps: Optimizer steps.
        num_examples: Samples trained on, each counted once.
    """

    coverage: tuple[TensorSlice, ...]
    loss: float
    steps: int
    num_examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """Which samples a step takes, (B,), with their labels, (B,), and the exit that it trains."""

    indices: _Indices
    labels: _Indices
    exit_index: int


# What overflows is not finite any more, and that is looked at.
@np.errstate(over="ignore", invalid="ignore")
def train_locally(
    model: Model,
    samples: Samples,
    plan: LocalPlan,
    has_time: Callable[[], bool] = lambda: True,
    cache: FeatureCache | None = None,
    *,
    goes_on: Callable[[], bool] = lambda: True,
) -> LocalResult:
    """Train the model's adapter in place.

    Args:
        model: The tensors of its adapter that are trained must be writable arrays, given by `Model.use_adapter`.
        samples: At least one.
        plan: What to do.
        has_time: Asked again and again; as soon as it says no, the steps that were finished are all there is.
        cache: Keeps what no step changes, from one epoch or call to the next; always of these samples.
        goes_on: Asked after each whole epoch, the last one too; as soon as it says no, training ends.  The adapter is
            then as this epoch has left it.

    Raises:
        ExitsError: If the bundle has no exit up to the plan's.
        SamplesError: If the samples do not fit the model.
        InstructionError: If the loss is no longer finite.
    """
    count = len(samples.labels)
    # A server sends one seed to all devices of a tier; their number of samples tells them apart.
    random = np.random.default_rng((plan.seed, count))
    drawn = [e for e in model.exits if e <= plan.exit_index] if plan.draw == "uniform" else [plan.exit_index]
    inputs = DecodedInputs(model, samples) if cache is None else CachedInputs(model, samples, cache)
    optimizer, gradients = _optimizer(plan, model.adapter)
    reached: dict[TensorSlice, None] = {}
    losses = np.full(count, np.nan)
    steps = 0
    for indices in _batches(random, count, plan, goes_on):
        gradients.clear()
        step = _Step(indices=indices, labels=samples.labels[indices], exit_index=int(random.choice(drawn)))
        loss = _accumulate(model, gradients, inputs, step, has_time)
        if loss is None:
            break
        if not math.isfinite(loss):
            raise InstructionError(
                f"training diverged: the loss is {loss} after {steps} steps; lower the learning rate"
            )
        _clip(gradients, plan.clip)
        optimizer.step(model.adapter, gradients.arrays, gradients.coverage)
        reached.update(dict.fromkeys(gradients.coverage))
        losses[indices] = loss
        steps += 1
    trained_on = losses[~np.isnan(losses)]
    return LocalResult(
        coverage=merge_slices(reached),
        loss=float(trained_on.mean()) if steps else math.nan,
        steps=steps,
        num_examples=len(trained_on),
    )


def _batches(
    random: np.random.Generator, count: int, plan: LocalPlan, goes_on: Callable[[], bool]
) -> Iterator[_Indices]:
    """Yield the samples of each step; every epoch has an order of its own."""
    for _ in range(plan.epochs):
        order = random.permutation(count)
        for start in range(0, count, plan.batch_size):
            yield order[start : start + plan.batch_size]
        if not goes_on():
            return


def _accumulate(
    model: Model, gradients: Gradients, inputs: StepInputs, step: _Step, has_time: Callable[[], bool]
) -> float | None:
    """Add up the gradient of a step's mean loss and return the loss; None where the time did not suffice for it."""
    loss = 0.0
    count = len(step.indices)
    for start in range(0, count, _SAMPLES_AT_ONCE):
        if not has_time():
            return None
        piece = slice(start, start + _SAMPLES_AT_ONCE)
        given = inputs.read(step.indices[piece].tolist(), step.exit_index)
        labels = step.labels[piece]
        weights = np.full(len(labels), 1.0 / count, np.float32)
        loss += model.accumulate(gradients, given, labels, step.exit_index, weights)
    return loss


def _optimizer(plan: LocalPlan, adapter: Mapping[str, FloatArray]) -> tuple[Sgd | AdamW, Gradients]:
    """Return a fresh optimizer with the buffers it steps by."""
    if plan.trained is not None:
        adapter = {name: adapter[name] for name in sorted(plan.trained)}
    if plan.optimizer == "sgd" and not plan.clip:
        return Sgd(learning_rate=plan.learning_rate), Gradients(adapter, plan.momentum)
    if plan.optimizer == "sgd":
        return Sgd(learning_rate=plan.learning_rate, momentum=plan.momentum), Gradients(adapter)
    return AdamW(learning_rate=plan.learning_rate, weight_decay=plan.weight_decay), Gradients(adapter)


def _clip(gradients: Gradients, largest: float) -> None:
    """Scale the gradient so that its norm is at most `largest`."""
    norm = gradients.norm() if largest else 0.0
    if norm > largest:
        gradients.scale(largest / norm)
