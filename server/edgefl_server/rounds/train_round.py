"""One round from the instructions to the new adapter."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
from flwr.app import Message

from edgefl.bundle import Adapter
from edgefl.errors import RefusedError
from edgefl.update.instruction import PROTOCOL_VERSION, Instruction
from edgefl_server.rounds.aggregate import Aggregation
from edgefl_server.rounds.checkpoint import Checkpoint
from edgefl_server.rounds.gate import Update, read_update
from edgefl_server.rounds.history import CohortMember, Failure, FailureKind, ReplyRecord, RoundRecord
from edgefl_server.rounds.server_optimizer import momentum_step
from edgefl_server.settings import Settings

__all__ = ["TrainRound"]

_LOG = logging.getLogger(__name__)


class TrainRound:
    """A round that is open: it counts updates as they arrive and keeps none of them.

    Attributes:
        number: The round, from 1.
        instructions: What each node of the cohort is asked to do.
    """

    def __init__(self, number: int, cohort: Mapping[int, int], before: Checkpoint, settings: Settings) -> None:
        """Open a round.

        Args:
            number: The round, from 1.
            cohort: The deepest exit to train, by node.
            before: What the last round left.
            settings: The run's settings.
        """
        self.number = number
        self.instructions = {
            node_id: _instruct(number, exit_index, before, settings) for node_id, exit_index in cohort.items()
        }
        self._before = before
        self._settings = settings
        self._shapes = {name: array.shape for name, array in before.adapter.tensors.items()}
        self._aggregation = Aggregation(before.adapter.tensors, settings.untouched)
        self._replies: list[ReplyRecord] = []
        self._failures: list[Failure] = []
        self._started = datetime.now(UTC)
        self._start_seconds = time.monotonic()

    def receive(self, node_id: int, reply: Message) -> bool:
        """Count a reply if it passes the gate.

        Returns:
            Whether it was counted.
        """
        if reply.has_error():
            self.fail(node_id, "error", str(reply.error.reason))
            return False
        try:
            update = read_update(node_id, reply, self.instructions, self._shapes)
        except RefusedError as error:
            self.fail(node_id, "refused", str(error))
            return False
        weight = update.metrics.num_examples if self._settings.weighting == "samples" else 1
        self._aggregation.add(update.parts, weight, update.header.reply)
        self._replies.append(_record(node_id, update))
        return True

    def fail(self, node_id: int, kind: FailureKind, reason: str) -> None:
        """Note that a node's work does not count.

        Args:
            node_id: The node.
            kind: As `Failure.kind`.
            reason: Why.
        """
        failure = Failure(node_id=node_id, kind=kind, reason=reason[:300])
        _LOG.warning("round %d, node %d, %s: %r", self.number, node_id, kind, failure.reason)
        self._failures.append(failure)

    def close(self, needed: int) -> Checkpoint:
        """Return what the round leaves: a new adapter, or the old one where too few updates came.

        Args:
            needed: Updates that make the round count.
        """
        before = self._before.adapter
        if len(self._replies) < needed:
            _LOG.warning(
                "round %d keeps the adapter: %d of at least %d updates came", self.number, len(self._replies), needed
            )
            return Checkpoint(round=self.number, adapter=before, momentum=self._before.momentum)
        # Values near float32's end may overflow; what is not finite is dropped below, with the whole round.
        with np.errstate(over="ignore", invalid="ignore"):
            values, momentum = momentum_step(
                before.tensors, self._aggregation.result(), self._before.momentum, self._settings.server_momentum
            )
        if not all(np.isfinite(array).all() for array in (*values.values(), *momentum.values())):
            _LOG.warning("round %d keeps the adapter: its average is not finite", self.number)
            return Checkpoint(round=self.number, adapter=before, momentum=self._before.momentum)
        adapter = Adapter(bundle_id=before.bundle_id, version=before.version + 1, round=self.number, tensors=values)
        return Checkpoint(round=self.number, adapter=adapter, momentum=momentum)

    def record(self, after: Checkpoint) -> RoundRecord:
        """Return the round's line of the history.

        Args:
            after: What `close` returned.
        """
        adapter_bytes = sum(array.nbytes for array in self._before.adapter.tensors.values())
        return RoundRecord(
            round=self.number,
            started=self._started.isoformat(timespec="milliseconds"),
            seconds=round(time.monotonic() - self._start_seconds, 3),
            learning_rate=self._settings.learning_rate_in(self.number),
            cohort=[
                CohortMember(node_id=node_id, exit_index=instruction.exit_index)
                for node_id, instruction in self.instructions.items()
            ],
            replies=self._replies,
            failures=self._failures,
            bytes_down=adapter_bytes * len(self.instructions),
            bytes_up=sum(reply.bytes_up for reply in self._replies),
            is_aggregated=after.adapter.version > self._before.adapter.version,
            adapter_version=after.adapter.version,
        )


def _instruct(number: int, exit_index: int, before: Checkpoint, settings: Settings) -> Instruction:
    # One seed for each round and tier, never from the node's id, which is random: a run can be repeated.
    seed = int(np.random.SeedSequence((settings.seed, number, exit_index)).generate_state(1)[0])
    return Instruction(
        edgefl=PROTOCOL_VERSION,
        bundle_id=before.adapter.bundle_id,
        adapter_version=before.adapter.version,
        round=number,
        exit_index=exit_index,
        draw=settings.draw,
        seed=seed,
        optimizer=settings.optimizer,
        learning_rate=settings.learning_rate_in(number),
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        deadline_seconds=settings.deadline_seconds,
        reply="values",
    )


def _record(node_id: int, update: Update) -> ReplyRecord:
    return ReplyRecord(
        node_id=node_id,
        exit_index=update.header.exit_index,
        num_examples=update.metrics.num_examples,
        loss=update.metrics.loss,
        train_seconds=update.metrics.train_seconds,
        peak_rss_bytes=update.metrics.peak_rss_bytes,
        bytes_up=update.num_bytes,
    )
