"""Decide a device's tier, the deepest exit it trains, from what it measured and never from its id."""

from __future__ import annotations

from collections.abc import Sequence

from edgefl.errors import RefusedError
from edgefl.update.instruction import Properties

__all__ = ["decide_exit"]


def decide_exit(properties: Properties, bundle_id: str, exits: Sequence[int]) -> int:
    """Return the deepest exit of the bundle that a device can afford to train.

    Args:
        properties: What the device told about itself.
        bundle_id: The bundle that is trained here.
        exits: The exits that bundle has.

    Raises:
        RefusedError: If the device holds another bundle, or cannot afford even the shallowest exit.
    """
    if properties.bundle_id != bundle_id:
        raise RefusedError(
            f"it holds bundle {properties.bundle_id[:12]!r}, this server trains {bundle_id[:12]!r}; "
            "give the device the server's bundle"
        )
    affordable = [exit_index for exit_index in exits if exit_index <= properties.deepest_exit]
    if not affordable:
        raise RefusedError(
            f"it can train up to exit {properties.deepest_exit}, the bundle's shallowest is {min(exits)}; "
            "export a bundle with shallower exits"
        )
    return max(affordable)
