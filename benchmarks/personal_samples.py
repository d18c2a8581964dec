"""Decoded samples for `edgefl personalize --samples benchmarks.personal_samples:decoded`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FOLDER", "decoded", "write"]

FOLDER = "EDGEFL_BENCHMARK_SAMPLES"
"""The environment variable that names the folder."""


def write(folder: Path, samples: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
    """Write samples (B, channels, height, width) and labels (B,) where `decoded` finds them."""
    np.save(folder / "samples.npy", samples)
    np.save(folder / "labels.npy", labels)


def decoded() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return what `write` has written to the folder that the environment names."""
    folder = Path(os.environ[FOLDER])
    return np.load(folder / "samples.npy"), np.load(folder / "labels.npy")
