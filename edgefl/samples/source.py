"""Where local samples come from: an image folder, or a function of the user's own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgefl.errors import SamplesError
from edgefl.samples.arrays import ArraySamples
from edgefl.samples.folder import ImageFolder

__all__ = ["Samples", "open_samples"]


class Samples(Protocol):
    """Labelled samples.

    Attributes:
        labels: (N,), int64, classes from 0.
    """

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the label of each sample, (N,)."""
        ...

    def read(self, indices: Sequence[int]) -> list[np.ndarray[Any, Any]]:
        """Return samples: each uint8 RGB (H, W, 3) of any size, or float32 (channels, height, width)."""
        ...


def open_samples(text: str, classes: int) -> Samples:
    """Open what `--samples` names.

    Args:
        text: A folder with a subfolder of images for each class, or `module:function`; the function takes nothing
            and returns images or samples and their labels, both arrays.
        classes: Number of classes of the model.

    Raises:
        SamplesError: If there are no samples there, or they do not fit the model.
    """
    if Path(text).is_dir() or ":" not in text:
        return ImageFolder(Path(text), classes)
    module_name, _, function_name = text.partition(":")
    # A console script does not look into the folder it is started from; a user's own module usually lies there.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SamplesError(
            f"--samples {text}: {error}; name a folder, or module:function that can be imported"
        ) from error
    try:
        samples, labels = function()
    except (TypeError, ValueError) as error:
        raise SamplesError(f"--samples {text}: the function must return (samples, labels): {error}") from error
    return ArraySamples(samples, labels, classes)
