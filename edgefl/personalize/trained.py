"""What of the adapter is fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from edgefl.bundle import Bundle
from edgefl.errors import BadInputError

__all__ = ["What", "trained_tensors"]

What = Literal["accumulator", "parallel-adapters", "client-token"]

_PREFIXES: Mapping[What, tuple[str, ...]] = {
    "accumulator": ("accumulator.", "head."),
    "parallel-adapters": ("parallel_adapters.",),
    "client-token": ("accumulator.client_token",),
}


def trained_tensors(bundle: Bundle, what: What) -> frozenset[str]:
    """Return the names of the adapter tensors that are fine-tuned.

    Args:
        bundle: The bundle.
        what: The Accumulator with its head, the parallel adapters, or the client token alone (arXiv 2212.04084, §5).

    Raises:
        BadInputError: If the bundle has no such tensors.
    """
    names = frozenset(name for name in bundle.manifest.adapter.tensors if name.startswith(_PREFIXES[what]))
    if not names:
        raise BadInputError(
            f"bundle {bundle.folder.name} has nothing to train for --what {what}: no adapter tensor "
            f"{' or '.join(_PREFIXES[what])}; choose another --what, or export it with --parallel-adapters"
        )
    return names
