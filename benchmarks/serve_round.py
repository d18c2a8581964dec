"""What a round of the service's benchmark measures, and what all rounds together say."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.load import Outcome
from edgefl.core.report import Label, Record

__all__ = ["Round", "records_of"]

_DEADLINE = 1.5


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        alone: Milliseconds of each request at the deepest exit, one at a time.
        capacity: Requests a second at the deepest exit, several at a time.
        outcomes: Of each load, with the deadline that follows from `alone` and the rate from `capacity`.
    """

    alone: list[float]
    capacity: float
    outcomes: dict[str, list[Outcome]]

    @property
    def deadline_ms(self) -> float:
        """Of each request: 1.5 x the median time of one at a time."""
        return _DEADLINE * statistics.median(self.alone)

    def answers(self, load: str) -> list[Outcome]:
        """Return the requests of a load that were answered."""
        return [outcome for outcome in self.outcomes[load] if outcome.status == "OK"]

    def inside_deadline(self, load: str) -> float:
        """Return the share of a load's requests that were answered in time."""
        inside = sum(1000.0 * outcome.seconds <= self.deadline_ms for outcome in self.answers(load))
        return inside / len(self.outcomes[load])

    def mean_exit(self, load: str) -> float:
        """Return the mean exit of a load's answers."""
        return statistics.fmean(outcome.exit_index for outcome in self.answers(load))


def records_of(rounds: Sequence[Round], deepest: int) -> list[Record]:
    """Return medians of what is measured first, and means over all requests of a load, with the spread of rounds."""
    alone = [milliseconds for measured in rounds for milliseconds in measured.alone]
    records = [
        _of_repetitions("latency_alone", "ms", alone, {"exit": deepest}),
        _of_repetitions("deadline", "ms", [measured.deadline_ms for measured in rounds], {}),
        _of_repetitions("capacity", "1", [measured.capacity for measured in rounds], {"exit": deepest}),
    ]
    for load in rounds[0].outcomes:
        records += _of_load(load, rounds)
    return records


def _of_repetitions(name: str, unit: str, values: Sequence[float], labels: dict[str, Label]) -> Record:
    return Record(
        name=name, unit=unit, value=statistics.median(values), min=min(values), max=max(values),
        repetitions=len(values), labels=labels,
    )  # fmt: skip


def _of_load(load: str, rounds: Sequence[Round]) -> list[Record]:
    labels: dict[str, Label] = {"load": load}
    outcomes = [outcome for measured in rounds for outcome in measured.outcomes[load]]
    answers = [outcome for outcome in outcomes if outcome.status == "OK"]
    inside = [measured.inside_deadline(load) for measured in rounds]
    records = [
        Record(name="requests", unit="1", value=len(outcomes), labels=labels),
        Record(
            name="inside_deadline", unit="1", value=statistics.fmean(inside), min=min(inside), max=max(inside),
            repetitions=len(rounds), labels=labels,
        ),
        Record(name="answered", unit="1", value=sum(bool(o.status) for o in outcomes) / len(outcomes), labels=labels),
    ]  # fmt: skip
    if answers:
        times = [1000.0 * outcome.seconds for outcome in answers]
        depth = [measured.mean_exit(load) for measured in rounds if measured.answers(load)]
        records += [
            Record(
                name="mean_exit", unit="1", value=statistics.fmean(o.exit_index for o in answers), min=min(depth),
                max=max(depth), repetitions=len(depth), labels=labels,
            ),
            Record(name="latency", unit="ms", value=statistics.median(times), labels=labels),
            Record(name="latency_p99", unit="ms", value=float(np.quantile(times, 0.99)), labels=labels),
            Record(name="mean_batch", unit="1", value=statistics.fmean(o.batch for o in answers), labels=labels),
        ]  # fmt: skip
    for name, all_of_them, what in (("status", outcomes, "status"), ("exit_share", answers, "exit_index")):
        counts = Counter(getattr(outcome, what) for outcome in all_of_them)
        records += [
            Record(
                name=name, unit="1", value=count / len(all_of_them),
                labels={**labels, what.removesuffix("_index"): key},
            )
            for key, count in sorted(counts.items())
        ]  # fmt: skip
    return records
