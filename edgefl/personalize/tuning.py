"""Fine-tuning with a validation split and an early stop, which keeps the better of global and personal adapter."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edgefl.bundle import Adapter
from edgefl.bundle.personal import personal_adapter, personal_folder
from edgefl.errors import InstructionError
from edgefl.personalize import kept
from edgefl.personalize.caches import Caches
from edgefl.personalize.outcome import Outcome
from edgefl.personalize.score import Score, evaluate, evaluate_exit
from edgefl.personalize.split import Chosen, Parts
from edgefl.runtime.local_training import LocalPlan, train_locally
from edgefl.runtime.model import Model
from edgefl.runtime.step_inputs import CachedInputs, DecodedInputs, StepInputs

__all__ = ["OnEpoch", "tune"]

logger = logging.getLogger(__name__)

OnEpoch = Callable[[int, Score, Score], None]
"""Told after each epoch: its number, its score, and the best score so far."""


def tune(
    model: Model,
    own: Adapter,
    parts: Parts,
    plan: LocalPlan,
    *,
    patience: int,
    caches: Caches | None = None,
    on_epoch: OnEpoch = lambda *_: None,
) -> Outcome:
    """Fine-tune what the plan says and keep the result, if it is the better one, as the bundle's personal adapter.

    Personalisation as in arXiv 2212.04084, §5, judged on samples that are held out: the personal adapter on disk is at
    any moment the one there was before or the best so far, and never one that is no better than the global adapter.

    Args:
        model: The bundle in use with its global adapter, in a folder that this process holds.
        own: The global adapter.
        parts: The samples.
        plan: SGD without clipping, for named tensors at one exit.
        patience: After so many epochs in a row that are not the best so far, training ends.
        caches: Keep what no epoch changes of the samples; None to make it again each time.
        on_epoch: Told after each epoch.

    Raises:
        ExitsError: If the bundle does not have the exit.
        SamplesError: If a sample cannot be read or does not fit the model.
        BundleError: If there is a personal adapter that cannot be used.
        StorageError: If the disk does not take the adapter.
    """
    e, judged = plan.exit_index, _judged(model, parts.validation, plan.exit_index, caches)
    # What decides is reported: the program of all exits may differ from that of one in the last bits.
    before = evaluate(model, parts.validation) | {e: judged()}
    start, best = _start(model, own, judged, before[e])
    # Only these are this process's own memory; all others stay mapped.
    trained = {name: np.array(start.tensors[name]) for name in start.tensors if name in (plan.trained or ())}
    model.use_adapter({**start.tensors, **trained})
    judge = _Judge(model=model, own=own, judged=judged, patience=patience, on_epoch=on_epoch, best=best)
    train_seconds = _train(model, parts.training, plan, caches, judge)
    after = before
    if is_personal := judge.best_epoch > 0 or start is not own:
        kept.read_back(model.bundle, own, trained)
        after = evaluate(model, parts.validation) | {e: judge.best}
    epochs = len(judge.seconds)
    value_bytes = sum(array.nbytes for array in trained.values())
    return Outcome(
        before=before,
        after=after,
        kept="personal" if is_personal else "global",
        best_epoch=judge.best_epoch,
        epoch_seconds=judge.seconds,
        train_seconds=train_seconds,
        steps=epochs * -(-len(parts.training.labels) // plan.batch_size),
        num_training=len(parts.training.labels),
        num_validation=len(parts.validation.labels),
        value_bytes=value_bytes,
        buffer_bytes=value_bytes,
    )


def _judged(model: Model, validation: Chosen, exit_index: int, caches: Caches | None) -> Callable[[], Score]:
    """Return what tells the score of the model's adapter, whatever it is then, at one exit."""
    inputs: StepInputs = DecodedInputs(model, validation)
    if caches is not None:
        inputs = CachedInputs(model, validation, caches.validation, "infer")
    return lambda: evaluate_exit(model, validation, inputs, exit_index)


def _start(model: Model, own: Adapter, judged: Callable[[], Score], score: Score) -> tuple[Adapter, Score]:
    """Return the better of global and personal adapter with its score; a personal one that is not is removed."""
    personal, reason = personal_adapter(model.bundle, own), "it was made from another global adapter"
    if personal is not None:
        model.use_adapter(personal.tensors)
        found = judged()
        if found.is_better_than(score):
            return personal, found
        reason = "at this exit it is no better than the global adapter"
    if kept.remove(model.bundle):
        logger.warning("the adapter in %s is removed: %s", personal_folder(model.bundle.folder), reason)
    return own, score


def _train(model: Model, training: Chosen, plan: LocalPlan, caches: Caches | None, judge: _Judge) -> float:
    """Train until the judge or the plan ends it, or the loss is not finite any more; return the seconds it took."""
    began = time.perf_counter()
    try:
        train_locally(model, training, plan, cache=caches.training if caches else None, goes_on=judge)
    except InstructionError as diverged:
        logger.warning("%s", diverged)
    return time.perf_counter() - began


@dataclass(slots=True, kw_only=True)
class _Judge:
    """Looks at the adapter after each epoch, keeps it if it is the best so far, and says whether to go on.

    Attributes:
        model: The bundle in use, its adapter in training.
        own: The global adapter.
        judged: Tells the score of the adapter as it is.
        patience: Epochs to wait for a better one.
        on_epoch: Told after each epoch.
        best: The best score so far.
        best_epoch: The epoch it is from, counted from 1; 0 for what training began with.
        seconds: Of each epoch, without what happens here.
    """

    model: Model
    own: Adapter
    judged: Callable[[], Score]
    patience: int
    on_epoch: OnEpoch
    best: Score
    best_epoch: int = 0
    seconds: list[float] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter)

    def __call__(self) -> bool:
        self.seconds.append(time.perf_counter() - self._began)
        epoch = len(self.seconds)
        score = self.judged()
        if score.is_better_than(self.best) and kept.save(self.model.bundle, self.own, self.model.adapter):
            self.best, self.best_epoch = score, epoch
        self.on_epoch(epoch, score, self.best)
        self._began = time.perf_counter()
        return epoch - self.best_epoch < self.patience
