"""The golden values of a bundle: its self-test file, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefl.bundle import Bundle
from edgefl.core.tensors import TensorFile
from edgefl.errors import SelfTestFileError
from edgefl.runtime.weights import FloatArray

__all__ = ["Expected", "Golden", "read_golden"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What one exit computes with the formula's adapter.

    Attributes:
        logits: (N, C).
        loss: Mean over the samples.
        gradient_norms: Euclidean norm of the loss's gradient, by adapter tensor; 0 where the exit does not reach.
    """

    logits: FloatArray
    loss: float
    gradient_norms: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Inputs and what the exporter computed from them.

    Attributes:
        images: uint8 RGB, (N, H, W, 3).
        labels: (N,), int64 in [0, C).
        exits: The tested exits.
    """

    images: Array
    labels: Array
    exits: Mapping[int, Expected]


def read_golden(bundle: Bundle) -> Golden:
    """Read a bundle's self-test file.

    Raises:
        TensorFileError: If it is no safetensors file.
        SelfTestFileError: If it does not fit the bundle's manifest, or has NaN or infinite values.
    """
    manifest = bundle.manifest
    file = TensorFile(bundle.path(manifest.selftest.file))
    _check_names(file, manifest.selftest.exits)
    images, labels = file["images"], file["labels"]
    count, classes = len(images) if images.ndim else 0, manifest.model.classes
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] != 3 or 0 in images.shape:
        raise _misfit(file, "images", "uint8 (N, H, W, 3), none of them 0")
    if labels.dtype != np.int64 or labels.shape != (count,) or not (labels.min() >= 0 and labels.max() < classes):
        raise _misfit(file, "labels", f"int64 ({count},) from 0 to {classes - 1}")
    exits = {}
    for exit_index in manifest.selftest.exits:
        norms = _floats(file, f"gradient_norms_{exit_index:02d}", (len(manifest.adapter.tensors),))
        exits[exit_index] = Expected(
            logits=_floats(file, f"logits_{exit_index:02d}", (count, classes)),
            loss=float(_floats(file, f"loss_{exit_index:02d}", ())),
            gradient_norms=dict(zip(manifest.adapter.tensors, norms.tolist(), strict=True)),
        )
    return Golden(images=images, labels=labels, exits=exits)


def _check_names(file: TensorFile, exits: list[int]) -> None:
    at_exits = [f"{kind}_{e:02d}" for e in exits for kind in ("logits", "loss", "gradient_norms")]
    expected = {"images", "labels", *at_exits}
    if different := sorted(expected ^ file.entries.keys()):
        raise SelfTestFileError(
            f"{file.path} lacks or has too many tensors: {', '.join(different)}; copy or export the bundle again"
        )


def _floats(file: TensorFile, name: str, shape: tuple[int, ...]) -> FloatArray:
    array = file[name]
    if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all():
        raise _misfit(file, name, f"finite float32 {shape}")
    return array


def _misfit(file: TensorFile, name: str, expected: str) -> SelfTestFileError:
    array = file[name]
    return SelfTestFileError(
        f"{file.path}: {name!r} is {array.dtype} of shape {array.shape}, expected {expected}; "
        "copy or export the bundle again"
    )
