"""Everything the server needs to go on after a stop, in one file that is replaced whole after every round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefl.bundle import Adapter, Bundle
from edgefl.core.atomic import write_atomically
from edgefl.core.tensors import TensorFile, encode_tensors
from edgefl.errors import AdapterLayoutError
from edgefl_server.rounds.aggregate import FloatArray

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

_ADAPTER = "adapter/"
_MOMENTUM = "momentum/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The server between two rounds.

    Attributes:
        round: The last round that ended, 0 before the first.
        adapter: The global adapter; its own round is the last one that changed it.
        momentum: The server's momentum by tensor; a tensor that is missing has none.
    """

    round: int
    adapter: Adapter
    momentum: Mapping[str, FloatArray]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file; adapter, momentum and round change together or not at all.

    Raises:
        StorageError: If the folder cannot be written.
    """
    tensors = {_ADAPTER + name: array for name, array in checkpoint.adapter.tensors.items()}
    tensors |= {_MOMENTUM + name: array for name, array in checkpoint.momentum.items()}
    metadata = {
        "bundle_id": checkpoint.adapter.bundle_id,
        "adapter_version": str(checkpoint.adapter.version),
        "adapter_round": str(checkpoint.adapter.round),
        "round": str(checkpoint.round),
    }
    write_atomically(path, encode_tensors(tensors, metadata))


def load_checkpoint(path: Path, bundle: Bundle) -> Checkpoint:
    """Return where to go on: what was saved, or the bundle's own adapter where nothing was.

    Raises:
        AdapterLayoutError: If it was saved for another bundle.
        BundleError: If the bundle's own adapter cannot be used.
        TensorFileError: If it is no safetensors file.
        StorageError: If it cannot be read.
    """
    if not path.exists():
        return Checkpoint(round=0, adapter=bundle.adapter(), momentum={})
    file = TensorFile(path)
    manifest = bundle.manifest
    owner = file.metadata.get("bundle_id")
    shapes = {name: tuple(manifest.tensors[name].shape) for name in manifest.adapter.tensors}
    if owner != manifest.bundle_id or not _fits(file, shapes):
        raise AdapterLayoutError(
            f"{path} was saved for bundle {owner!r}, this one is {manifest.bundle_id}; choose another --state"
        )
    return Checkpoint(
        round=int(file.metadata["round"]),
        adapter=Adapter(
            bundle_id=manifest.bundle_id,
            version=int(file.metadata["adapter_version"]),
            round=int(file.metadata["adapter_round"]),
            tensors={name: file[_ADAPTER + name] for name in shapes},
        ),
        momentum={name: file[_MOMENTUM + name] for name in shapes if _MOMENTUM + name in file.entries},
    )


def _fits(file: TensorFile, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the file holds exactly the adapter, and momentum for its tensors only."""
    found = {name: (entry.shape, entry.dtype) for name, entry in file.entries.items()}
    adapter = {_ADAPTER + name: (shape, np.dtype("<f4")) for name, shape in shapes.items()}
    momentum = {_MOMENTUM + name: (shape, np.dtype("<f4")) for name, shape in shapes.items()}
    return adapter.items() <= found.items() and found.items() <= (adapter | momentum).items()
