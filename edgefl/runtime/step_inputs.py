"""What a local step, or an answer, is given: decoded samples, or what was made of them before and a disk has kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from edgefl.runtime.batch import Features
from edgefl.runtime.feature_cache import FeatureCache
from edgefl.runtime.model import Mode, Model
from edgefl.runtime.weights import FloatArray
from edgefl.samples import Samples

__all__ = ["CachedInputs", "DecodedInputs", "StepInputs"]


class StepInputs(Protocol):
    """Where a local step's samples come from."""

    def read(self, indices: Sequence[int], exit_index: int) -> FloatArray | Features:
        """Return samples as `Model.accumulate` takes them, or `Model.answer`.

        Args:
            indices: Which samples.
            exit_index: The exit that they are for.

        Raises:
            SamplesError: If one cannot be read or does not fit the model.
        """
        ...


class DecodedInputs:
    """Samples decoded each time they are used."""

    def __init__(self, model: Model, samples: Samples) -> None:
        self._model, self._samples = model, samples

    def read(self, indices: Sequence[int], exit_index: int) -> FloatArray:
        """Return samples (B, channels, height, width)."""
        del exit_index  # all exits are given the same
        return self._model.prepare(self._samples.read(indices))


class CachedInputs:
    """Features from a cache where it has them; of other samples they are made, and kept if there is room.

    Samples must stay what they are as long as this object lives.
    """

    def __init__(self, model: Model, samples: Samples, cache: FeatureCache, mode: Mode = "train") -> None:
        self._model, self._cache, self._mode = model, cache, mode
        self._decoded = DecodedInputs(model, samples)
        self._digests: dict[int, Mapping[str, str]] = {}

    def read(self, indices: Sequence[int], exit_index: int) -> FloatArray | Features:
        """Return features, or samples where the program of this exit reads something trained at once."""
        if exit_index not in self._digests:
            self._digests[exit_index] = self._model.feature_digests(exit_index, self._mode)
        digests = self._digests[exit_index]
        if not digests:
            return self._decoded.read(indices, exit_index)
        kept = [self._cache.has(digests.values(), index) for index in indices]
        present = [index for index, is_kept in zip(indices, kept, strict=True) if is_kept]
        # Before others are made: a disk that is full makes the cache forget everything.
        rows = {name: self._cache.get(digest, present) for name, digest in digests.items()} if present else {}
        if len(present) == len(indices):
            return Features(rows)
        missing = [index for index, is_kept in zip(indices, kept, strict=True) if not is_kept]
        made = self._made(missing, exit_index, digests)
        return Features({name: _merged(rows[name], made[name], kept) for name in digests} if present else made)

    def _made(self, missing: Sequence[int], exit_index: int, digests: Mapping[str, str]) -> Mapping[str, FloatArray]:
        samples = self._decoded.read(missing, exit_index)
        made = self._model.features(samples, exit_index, self._mode).arrays
        for place, index in enumerate(missing):
            self._cache.put(index, {digests[name]: rows[place] for name, rows in made.items()})
        return made


def _merged(rows: FloatArray, made: FloatArray, kept: Sequence[bool]) -> FloatArray:
    """Return kept and made rows in the order of the samples."""
    merged = np.empty((len(kept), *rows.shape[1:]), np.float32)
    is_kept = np.array(kept)
    merged[is_kept], merged[~is_kept] = rows, made
    return merged
