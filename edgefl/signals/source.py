"""What every source of signals can do."""

from __future__ import annotations

from typing import Protocol

from edgefl.core.signals import Signals

__all__ = ["Source"]


class Source(Protocol):
    """Where signals come from."""

    def read(self) -> Signals:
        """Return what is known now."""
        ...
