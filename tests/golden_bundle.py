"""The bundle in tests/golden/bundle: where it lies, how to tamper with a copy, and inputs that fit it.

Three blocks of width 24, exits 0, 1 and 2, grey samples of 16 x 16, five classes, parallel adapters of rank 4,
training programs that take four samples at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgefl.runtime.model import Model, load
from edgefl.runtime.weights import FloatArray

GOLDEN = Path(__file__).parent / "golden" / "bundle"
EXITS = (0, 1, 2)
CLASSES = 5
POSITION_ROWS = 5

Fields = dict[str, Any]
Labels = np.ndarray[Any, np.dtype[np.int64]]


def copy_golden(folder: Path) -> Path:
    """Copy the bundle to a folder of a test's own and return it."""
    return shutil.copytree(GOLDEN, folder / "bundle")


def change_manifest(bundle: Path, change: Callable[[Fields], object]) -> None:
    """Decode the manifest, let a function change it, and write it back."""
    path = bundle / "manifest.json"
    fields = json.loads(path.read_bytes())
    change(fields)
    path.write_text(json.dumps(fields), encoding="utf-8")


def trained_adapter() -> dict[str, FloatArray]:
    """Return writable trainable tensors in which nothing is zero, as after some training."""
    random = np.random.default_rng(7)
    return {
        name: array + np.float32(0.1) * random.standard_normal(array.shape, np.float32)
        for name, array in _opened().bundle.adapter().tensors.items()
    }


def trained_model() -> Model:
    """Return the model with a trained adapter of its own; opening its graphs again for each test would take seconds."""
    model = _opened()
    model.use_adapter(trained_adapter())
    return model


@cache
def _opened() -> Model:
    return load(GOLDEN)


def random_samples(count: int, seed: int = 0) -> tuple[FloatArray, Labels]:
    """Return samples (count, 1, 16, 16) and labels (count,)."""
    random = np.random.default_rng(seed)
    return random.standard_normal((count, 1, 16, 16), np.float32), random.integers(0, CLASSES, count)


def cross_entropies(logits: FloatArray, labels: Labels) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return each sample's loss, (B,), straight from the definition: -log(exp(l_y) / sum_c exp(l_c))."""
    exponentials = np.exp(logits.astype(np.float64))
    losses: np.ndarray[Any, np.dtype[np.float64]] = -np.log(
        exponentials[np.arange(len(labels)), labels] / exponentials.sum(-1)
    )
    return losses
