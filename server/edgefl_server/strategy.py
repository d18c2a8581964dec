"""Flower's strategy for clients of different depth: ask, instruct each by its tier, average what each one trained.

It also works under Flower's own `Strategy.start`, but that one knows neither deadlines that hold nor restarts; `run`
is the loop edgefl uses, on the same hooks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from edgefl.bundle.manifest import Manifest
from edgefl_server.host.state import StateFolder
from edgefl_server.rounds.arrays import encode_arrays
from edgefl_server.rounds.checkpoint import Checkpoint, save_checkpoint
from edgefl_server.rounds.cohort import Cohort
from edgefl_server.rounds.collect import Limits, collect
from edgefl_server.rounds.history import append_round
from edgefl_server.rounds.train_round import TrainRound
from edgefl_server.settings import Settings

__all__ = ["TierStrategy"]

_LOG = logging.getLogger(__name__)


class TierStrategy(Strategy):
    """Federated averaging over clients that each train a part of the adapter.

    Attributes:
        settings: The run's settings.
        checkpoint: What the last round left; its adapter is the global one.
        cohort: Who is there.
        limits: When a round stops waiting.
    """

    def __init__(
        self,
        settings: Settings,
        manifest: Manifest,
        checkpoint: Checkpoint,
        *,
        cohort: Cohort | None = None,
        poll_seconds: float = 0.5,
    ) -> None:
        """Prepare a run.

        Args:
            settings: The run's settings.
            manifest: The manifest of the bundle that is trained.
            checkpoint: Where to go on; round 0 holds the bundle's own adapter.
            cohort: How to find out who is there; None for the default.
            poll_seconds: How often a node's reply is asked for.
        """
        self.settings = settings
        self.checkpoint = checkpoint
        self.cohort = cohort or Cohort(manifest)
        self.limits = Limits(
            deadline_seconds=settings.deadline_seconds,
            quorum=settings.quorum,
            grace_seconds=settings.grace_seconds,
            poll_seconds=poll_seconds,
        )
        self._header_bytes = manifest.adapter.header_bytes
        self._round = TrainRound(0, {}, checkpoint, settings)  # nobody in it, until configure_train opens one

    def run(self, grid: Grid, state: StateFolder) -> None:
        """Run every round that is left, each of them on the disk before the next one starts.

        Args:
            grid: Flower's connection to the nodes.
            state: Where checkpoint, adapter and history go.

        Raises:
            StorageError: If they cannot be written.
        """
        self.summary()
        self._save(state)
        for number in range(self.checkpoint.round + 1, self.settings.rounds + 1):
            messages = self.configure_train(
                number, encode_arrays(self.checkpoint.adapter.tensors), ConfigRecord(), grid
            )
            failures = collect(grid, messages, self.limits, self._round.receive)
            for node_id, reason in failures.items():
                self._round.fail(node_id, "missing", reason)
            self._close()
            self._save(state)
            record = self._round.record(self.checkpoint)
            append_round(state.history, record)
            _LOG.info(
                "round %d: %d of %d updates, adapter version %d, %.1f s",
                number,
                len(record.replies),
                len(record.cohort),
                record.adapter_version,
                record.seconds,
            )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Wait for enough clients and open a round: one message for each node that may take part.

        Args:
            server_round: The round, from 1.
            arrays: The adapter of `checkpoint`, whole, as every node receives it.
            config: Further keys for every node, which edgefl's own clients ignore.
            grid: Flower's connection to the nodes.
        """
        members = self.cohort.wait_for(grid, self.settings.min_clients)
        self._round = TrainRound(server_round, members, self.checkpoint, self.settings)
        return [
            Message(
                RecordDict({"arrays": arrays, "config": ConfigRecord({**config, **instruction.to_config()})}),
                node_id,
                MessageType.TRAIN,
                ttl=self.settings.deadline_seconds,
                group_id=str(server_round),
            )
            for node_id, instruction in self._round.instructions.items()
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Close the open round with the replies that Flower's own loop collected.

        Args:
            server_round: The round that `configure_train` opened.
            replies: All replies, errors among them.

        Returns:
            The new adapter and the number of updates in it; None and None if too few came.

        Raises:
            ValueError: If another round is open.
        """
        if server_round != self._round.number:
            raise ValueError(f"round {server_round} cannot be closed: round {self._round.number} is open")
        for reply in replies:
            self._round.receive(reply.metadata.src_node_id, reply)
        version = self.checkpoint.adapter.version
        self._close()
        if self.checkpoint.adapter.version == version:
            return None, None
        record = self._round.record(self.checkpoint)
        metrics = MetricRecord({"replies": len(record.replies), "adapter_version": record.adapter_version})
        return encode_arrays(self.checkpoint.adapter.tensors), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Ask nobody: a message more for each node and round, for numbers that devices report while training."""
        del server_round, arrays, config, grid
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing, since nobody was asked."""
        del server_round, replies
        return None

    def summary(self) -> None:
        """Log what is about to run."""
        _LOG.info(
            "bundle %.12s, adapter version %d, rounds %d to %d",
            self.checkpoint.adapter.bundle_id,
            self.checkpoint.adapter.version,
            self.checkpoint.round + 1,
            self.settings.rounds,
        )

    def _close(self) -> None:
        self.checkpoint = self._round.close(self.limits.enough(len(self._round.instructions)))

    def _save(self, state: StateFolder) -> None:
        # The checkpoint is the truth; the adapter beside it is for people and devices, and may be one round behind.
        save_checkpoint(state.checkpoint, self.checkpoint)
        self.checkpoint.adapter.save(state.adapter, self._header_bytes)
