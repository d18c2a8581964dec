"""What a federation is compared with: each client alone, all samples in one place, and no network at all."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from edgefl.core.report import this_device
from edgefl.runtime.local_training import LocalPlan, train_locally
from edgefl.runtime.model import Model, load
from edgefl.samples.arrays import ArraySamples
from edgefl_server.demo.digits import CLASSES, Digits

__all__ = [
    "Place",
    "Schedule",
    "accuracy_per_exit",
    "logistic_regression_accuracy",
    "mean_per_exit",
    "train_everywhere",
]

Adapter = Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Training without a server, by the same recipe as the rounds of the federation.

    Attributes:
        epochs: As many as the federation has rounds; each starts with a fresh optimizer and the round's step size.
        learning_rate: Of the first epoch; half a cosine down to 0 after the last.
        seed: Of order and draw.
    """

    epochs: int
    learning_rate: float
    seed: int

    def plan(self, epoch: int, exit_index: int) -> LocalPlan:
        """Return what to do in one epoch, from 0."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * epoch / self.epochs))
        return LocalPlan(
            exit_index=exit_index,
            draw="uniform",
            seed=self.seed + epoch,
            optimizer="adamw",
            learning_rate=self.learning_rate * cosine,
            momentum=0.0,
            weight_decay=0.0,
            clip=1.0,
            epochs=1,
            batch_size=32,
        )


def accuracy_per_exit(model: Model, adapter: Adapter, digits: Digits) -> dict[int, float]:
    """Return the fraction of right answers at each exit."""
    model.use_adapter(adapter)
    return {
        prediction.exit_index: float((prediction.labels == digits.labels).mean())
        for prediction in model.infer(digits.images)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Somewhere that trains without a federation.

    Attributes:
        digits: Its samples.
        deepest_exit: The deepest exit that is drawn.
    """

    digits: Digits
    deepest_exit: int


def train_everywhere(
    bundle: Path, places: Sequence[Place], test: Digits, schedule: Schedule, on_done: Callable[[], None]
) -> list[dict[int, float]]:
    """Train from the exported adapter in each place alone and return its accuracy at every exit.

    Args:
        bundle: The bundle.
        places: The places; as many at once as this process may use cores.
        test: What accuracy is measured on.
        schedule: How to train.
        on_done: Called when a place is done.
    """
    with ProcessPoolExecutor(
        this_device().cores, mp_context=get_context("spawn"), initializer=_use_one_thread
    ) as executor:
        jobs = [executor.submit(_train_alone, bundle, place, test, schedule) for place in places]
        for _ in as_completed(jobs):
            on_done()
        return [job.result() for job in jobs]


def _use_one_thread() -> None:
    os.environ["EDGEFL_THREADS"] = "1"


def _train_alone(bundle: Path, place: Place, test: Digits, schedule: Schedule) -> dict[int, float]:
    model = load(bundle, memory="fast")
    model.use_adapter({name: np.array(array) for name, array in model.adapter.items()})
    samples = ArraySamples(place.digits.images, place.digits.labels, CLASSES)
    for epoch in range(schedule.epochs):
        train_locally(model, samples, schedule.plan(epoch, place.deepest_exit))
    return accuracy_per_exit(model, model.adapter, test)


def logistic_regression_accuracy(train: Digits, test: Digits) -> float:
    """Return the fraction of right answers of a logistic regression on raw pixels."""
    from sklearn.linear_model import LogisticRegression

    def pixels(digits: Digits) -> np.ndarray[Any, np.dtype[np.float64]]:
        return digits.images[..., 0].reshape(len(digits.labels), -1) / 255.0

    fitted = LogisticRegression(max_iter=2000).fit(pixels(train), train.labels)
    return float(fitted.score(pixels(test), test.labels))


def mean_per_exit(accuracies: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return the mean over several models, exit by exit."""
    return {e: float(np.mean([accuracy[e] for accuracy in accuracies])) for e in accuracies[0]}
