"""What fine-tuning comes to: for its table and its report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgefl.core.report import Label, Record
from edgefl.personalize.score import Score

__all__ = ["Outcome", "records"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Fine-tuning that has ended.

    Attributes:
        before: Score of the global adapter on the validation samples, by exit.
        after: The same of the adapter that is kept.
        kept: Whether that is the global or the personal one.
        best_epoch: The epoch that it is from, counted from 1; 0 for what training began with.
        epoch_seconds: Of each whole epoch, without validation.
        train_seconds: From the first step to the last look at the validation samples, saving included.
        steps: Of the whole epochs.
        num_training: Samples trained on.
        num_validation: Samples validated with.
        value_bytes: Bytes of the tensors that were trained.
        buffer_bytes: Bytes of the buffers that were both their gradient and their velocity.
    """

    before: Mapping[int, Score]
    after: Mapping[int, Score]
    kept: Literal["global", "personal"]
    best_epoch: int
    epoch_seconds: Sequence[float]
    train_seconds: float
    steps: int
    num_training: int
    num_validation: int
    value_bytes: int
    buffer_bytes: int


def records(outcome: Outcome) -> list[Record]:
    """Return everything as records."""
    return [
        *_scores(outcome.before, "global"),
        *_scores(outcome.after, "kept"),
        Record(name="kept", unit="1", value=1, labels={"adapter": outcome.kept}),
        Record(name="epochs", unit="1", value=len(outcome.epoch_seconds)),
        Record(name="best_epoch", unit="1", value=outcome.best_epoch),
        Record(name="steps", unit="1", value=outcome.steps),
        Record(name="num_examples", unit="1", value=outcome.num_training, labels={"part": "training"}),
        Record(name="num_examples", unit="1", value=outcome.num_validation, labels={"part": "validation"}),
        Record(name="train_seconds", unit="s", value=outcome.train_seconds),
        *_epoch_ms(outcome.epoch_seconds),
        Record(name="trained_bytes", unit="byte", value=outcome.value_bytes, labels={"kind": "value"}),
        Record(
            name="trained_bytes",
            unit="byte",
            value=outcome.buffer_bytes,
            labels={"kind": "gradient"},
            method="summed into the velocity: one buffer is both",
        ),
        Record(name="trained_bytes", unit="byte", value=0, labels={"kind": "optimizer"}),
    ]


def _scores(scores: Mapping[int, Score], adapter: str) -> list[Record]:
    found = []
    for exit_index, score in scores.items():
        labels: dict[str, Label] = {"exit": exit_index, "adapter": adapter}
        found.append(Record(name="accuracy", unit="1", value=score.accuracy, labels=labels))
        found.append(Record(name="loss", unit="1", value=score.loss, labels=labels))
    return found


def _epoch_ms(seconds: Sequence[float]) -> list[Record]:
    if not seconds:
        return []
    milliseconds = [1000.0 * each for each in seconds]
    return [
        Record(
            name="epoch_ms",
            unit="ms",
            value=statistics.median(milliseconds),
            min=min(milliseconds),
            max=max(milliseconds),
            repetitions=len(milliseconds),
        )
    ]
