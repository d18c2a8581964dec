"""Copies of the golden bundle in which a file was changed and its hash was changed with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgefl.core.tensors import TensorFile, encode_tensors
from tests.golden_bundle import change_manifest, copy_golden

Arrays = dict[str, np.ndarray[Any, Any]]


def with_file(folder: Path, name: str, data: bytes) -> Path:
    """Return a bundle in which a file has other bytes, as if they had been exported."""
    bundle = folder / "bundle" if (folder / "bundle").exists() else copy_golden(folder)
    (bundle / name).write_bytes(data)
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change_manifest(bundle, lambda fields: fields["files"].update({name: entry}))
    return bundle


def with_golden_values(folder: Path, change: Callable[[Arrays], object]) -> Path:
    """Return a bundle whose self-test file has other tensors."""
    bundle = folder / "bundle" if (folder / "bundle").exists() else copy_golden(folder)
    arrays = {name: np.array(array) for name, array in TensorFile(bundle / "selftest.safetensors").arrays().items()}
    change(arrays)
    return with_file(folder, "selftest.safetensors", b"".join(encode_tensors(arrays)))


def with_constant(folder: Path, graph: str, old: float, new: float) -> Path:
    """Return a bundle in which one constant of a graph is another one, wherever the graph has it."""
    bundle = folder / "bundle" if (folder / "bundle").exists() else copy_golden(folder)
    data = (bundle / f"{graph}.onnx").read_bytes()
    before, after = (np.float32(value).tobytes() for value in (old, new))
    assert before in data
    return with_file(folder, f"{graph}.onnx", data.replace(before, after))
