"""Know who is there: ask every new node what it can afford, and give it a tier."""

from __future__ import annotations

import itertools
import logging
from threading import Event

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from edgefl.bundle.manifest import Manifest
from edgefl.errors import RefusedError
from edgefl.update.instruction import Properties
from edgefl_server.rounds.collect import Limits, collect
from edgefl_server.rounds.tiers import decide_exit

__all__ = ["PROPERTIES", "Cohort"]

PROPERTIES = "query.properties"
"""Flower's message type of the question (docs/protocol.md)."""

_LOOKS_PER_LINE = 60
_LOG = logging.getLogger(__name__)


class Cohort:
    """The nodes that take part, each with the exit it trains.

    A node is asked once in each of its sessions: one that restarts may come back with another budget or bundle.

    Attributes:
        limits: How long a question waits for its answer.
        wait_seconds: Time between two looks at who is there, while clients are missing.
    """

    def __init__(
        self,
        manifest: Manifest,
        limits: Limits = Limits(deadline_seconds=15.0),  # noqa: B008  # frozen, so that sharing it is safe
        wait_seconds: float = 1.0,
    ) -> None:
        self.limits = limits
        self.wait_seconds = wait_seconds
        self._manifest = manifest
        self._exits: dict[tuple[int, str], int | None] = {}

    def wait_for(self, grid: Grid, num_clients: int) -> dict[int, int]:
        """Return the exit of each node as soon as enough are there; until then log how many are."""
        reported = -1
        pause = Event()
        for look in itertools.count():
            members = self.members(grid)
            if len(members) >= num_clients:
                break
            if len(members) != reported or look % _LOOKS_PER_LINE == 0:
                _LOG.info("waiting for clients: %d of %d are there", len(members), num_clients)
                reported = len(members)
            pause.wait(self.wait_seconds)
        return members

    def members(self, grid: Grid) -> dict[int, int]:
        """Return the exit of each node that is online and may take part, after asking those not known yet."""
        sessions = {node.node_id: (node.node_id, node.last_activated_at) for node in grid.get_nodes()}
        self._exits = {session: self._exits[session] for session in sessions.values() if session in self._exits}
        unknown = [node_id for node_id, session in sessions.items() if session not in self._exits]

        def receive(node_id: int, reply: Message) -> bool:
            if reply.has_error():
                _LOG.warning("node %d does not tell its properties: %.300r", node_id, reply.error.reason)
            else:
                self._exits[sessions[node_id]] = self._tier(node_id, reply)
            return True

        failures = collect(grid, [self._question(node_id) for node_id in unknown], self.limits, receive)
        for node_id, reason in failures.items():
            _LOG.warning("node %d does not tell its properties: %.300s", node_id, reason)
        tiers = {node_id: self._exits.get(session) for node_id, session in sessions.items()}
        return {node_id: exit_index for node_id, exit_index in tiers.items() if exit_index is not None}

    def _question(self, node_id: int) -> Message:
        return Message(RecordDict({"config": ConfigRecord()}), node_id, PROPERTIES, ttl=self.limits.deadline_seconds)

    def _tier(self, node_id: int, reply: Message) -> int | None:
        """Return the node's exit, None if it may not take part."""
        try:
            properties = Properties.from_config(reply.content.config_records.get("properties", {}))
            exit_index = decide_exit(properties, self._manifest.bundle_id, self._manifest.exits)
        except RefusedError as error:
            _LOG.warning("node %d takes no part: %s", node_id, error)
            return None
        _LOG.info("node %d trains up to exit %d (%.60r)", node_id, exit_index, properties.client)
        return exit_index
