"""The folder a server keeps everything in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["StateFolder"]


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Where each file of a server lies.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def adapter(self) -> Path:
        """The newest global adapter, ready to be copied into a bundle."""
        return self.path / "adapter.safetensors"

    @property
    def checkpoint(self) -> Path:
        """What a restarted server goes on from."""
        return self.path / "checkpoint.safetensors"

    @property
    def history(self) -> Path:
        """One line for each round."""
        return self.path / "history.jsonl"

    @property
    def server_log(self) -> Path:
        """What the strategy tells: who joined, who was refused and why."""
        return self.path / "server.log"

    @property
    def superlink_log(self) -> Path:
        """What the SuperLink prints."""
        return self.path / "superlink.log"

    @property
    def superlink_database(self) -> Path:
        """What the SuperLink knows of nodes, runs and messages."""
        return self.path / "superlink.db"

    @property
    def devices(self) -> Path:
        """Which devices were paired, and their tokens."""
        return self.path / "devices.db"

    @property
    def flower_home(self) -> Path:
        """Flower's own folder, instead of one in the user's home."""
        return self.path / "flwr"
