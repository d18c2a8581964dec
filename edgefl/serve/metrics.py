"""What a service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from edgefl.serve.ticket import Served

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_BATCHES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters of one service.

    Attributes:
        registry: Where they are collected.
    """

    def __init__(
        self, queue_length: Callable[[], float], pace: Callable[[], float], version: Callable[[], float]
    ) -> None:
        """Make the counters.

        Args:
            queue_length: Requests that wait.
            pace: How much slower than measured the device is.
            version: Of the adapter in use.
        """
        self.registry = CollectorRegistry()
        self._answers = Counter(
            "edgefl_answers", "Final answers by exit and reason to stop", ["exit", "reason"], registry=self.registry
        )
        self._refusals = Counter(
            "edgefl_refusals", "Requests without an answer, by status", ["code"], registry=self.registry
        )
        self._seconds = Histogram(
            "edgefl_answer_seconds", "From request to final answer", buckets=_SECONDS, registry=self.registry
        )
        self._batch = Histogram(
            "edgefl_batch_size", "Requests answered together", buckets=_BATCHES, registry=self.registry
        )
        self._swaps = Counter(
            "edgefl_adapter_swaps", "New adapters, by whether they could be used", ["used"], registry=self.registry
        )
        gauges = {
            "edgefl_waiting_requests": ("Requests that wait", queue_length),
            "edgefl_pace_ratio": ("Time that answers take, as a ratio to the time measured at the start", pace),
            "edgefl_adapter_version": ("Version of the adapter in use", version),
        }
        for name, (text, function) in gauges.items():
            Gauge(name, text, registry=self.registry).set_function(function)

    def answered(self, served: Served) -> None:
        """Count a final answer."""
        answer = served.answer
        self._answers.labels(answer.exit_index, answer.stopped.rule if answer.stopped else "").inc()
        self._seconds.observe(answer.elapsed_ms / 1000.0)
        self._batch.observe(served.batch)

    def refused(self, code: str) -> None:
        """Count a request that ended with a status instead."""
        self._refusals.labels(code).inc()

    def swapped(self, *, used: bool) -> None:
        """Count a new adapter."""
        self._swaps.labels(str(used).lower()).inc()
