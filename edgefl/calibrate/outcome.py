"""What a calibration comes to, exit by exit: for its file, its table, its picture and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefl.bundle import Adapter
from edgefl.calibrate.frontier import find_rule
from edgefl.calibrate.temperature import expected_calibration_error
from edgefl.core.report import Record
from edgefl.policy import ExitCost
from edgefl.predict.calibration import Calibration, ExitCalibration, FrontierPoint, confidence

__all__ = ["Outcome", "Row", "calibrate_exits", "records"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One exit.

    Attributes:
        exit: Its calibration.
        milliseconds: Time until it has answered, on this device.
        share: Of the samples, those that stop there; cross-validated.
        confidence_before: Its mean confidence at temperature 1.
        confidence_after: The same at temperatures fitted on other samples.
    """

    exit: ExitCalibration
    milliseconds: float
    share: float
    confidence_before: float
    confidence_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A calibration and the numbers beside it.

    Attributes:
        calibration: What is kept.
        rows: One for each exit, rising.
    """

    calibration: Calibration
    rows: tuple[Row, ...]


def calibrate_exits(
    adapter: Adapter,
    logits: np.ndarray[Any, np.dtype[np.float32]],
    labels: np.ndarray[Any, np.dtype[np.int64]],
    costs: Sequence[ExitCost],
    max_loss: float,
) -> Outcome:
    """Fit temperatures and thresholds.

    Args:
        adapter: The adapter that answered.
        logits: (E, N, C), finite, of every exit.
        labels: (N,), integers in [0, C).
        costs: Of the E exits, rising, measured.
        max_loss: Accuracy that may be given up against the deepest exit, from 0 to 1.
    """
    times = [cost.milliseconds for cost in costs if cost.milliseconds is not None]
    rule = find_rule(logits, labels, np.array(times), max_loss)
    right = logits.argmax(-1) == labels
    rows = []
    for e, (cost, milliseconds) in enumerate(zip(costs, times, strict=True)):
        before = confidence(logits[e], 1.0)
        fitted = ExitCalibration(
            exit_index=cost.exit_index,
            temperature=float(rule.temperatures[e]),
            threshold=float(rule.thresholds[e]),
            accuracy=float(right[e].mean()),
            calibration_error_before=expected_calibration_error(before, right[e]),
            calibration_error_after=expected_calibration_error(rule.confidences[e], right[e]),
        )
        row = Row(
            exit=fitted,
            milliseconds=milliseconds,
            share=float((rule.stops == e).mean()),
            confidence_before=float(before.mean()),
            confidence_after=float(rule.confidences[e].mean()),
        )
        rows.append(row)
    calibration = Calibration(
        bundle_id=adapter.bundle_id,
        adapter_sha256=adapter.digest(),
        num_samples=len(labels),
        max_loss=max_loss,
        chosen=rule.chosen,
        deepest=FrontierPoint(cost_ms=rows[-1].milliseconds, accuracy=rows[-1].exit.accuracy),
        frontier=rule.frontier,
        exits=[row.exit for row in rows],
    )
    return Outcome(calibration=calibration, rows=tuple(rows))


def records(outcome: Outcome) -> list[Record]:
    """Return everything as records."""
    found, method = outcome.calibration, "two-fold cross-validated"
    ratio = found.chosen.cost_ms / found.deepest.cost_ms
    return [
        *(record for row in outcome.rows for record in _of_exit(row)),
        Record(name="policy_accuracy", unit="1", value=found.chosen.accuracy, method=method),
        Record(name="policy_cost_ms", unit="ms", value=found.chosen.cost_ms, method=method),
        Record(name="deepest_accuracy", unit="1", value=found.deepest.accuracy),
        Record(name="deepest_cost_ms", unit="ms", value=found.deepest.cost_ms),
        Record(name="cost_ratio", unit="1", value=ratio, method=method),
        *(
            Record(name="frontier_accuracy", unit="1", value=p.accuracy, labels={"cost_ms": p.cost_ms}, method=method)
            for p in found.frontier
        ),
    ]


def _of_exit(row: Row) -> list[Record]:
    fitted, method = row.exit, "two-fold cross-validated"
    labels = {"exit": fitted.exit_index}
    return [
        Record(name="accuracy", unit="1", value=fitted.accuracy, labels={**labels}),
        Record(name="temperature", unit="1", value=fitted.temperature, labels={**labels}),
        Record(name="threshold", unit="1", value=fitted.threshold, labels={**labels}),
        Record(
            name="expected_calibration_error",
            unit="1",
            value=fitted.calibration_error_before,
            labels={**labels, "calibrated": False},
        ),
        Record(
            name="expected_calibration_error",
            unit="1",
            value=fitted.calibration_error_after,
            labels={**labels, "calibrated": True},
            method=method,
        ),
        Record(name="exit_ms", unit="ms", value=row.milliseconds, labels={**labels}),
        Record(name="stops", unit="1", value=row.share, labels={**labels}, method=method),
    ]
