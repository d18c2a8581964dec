"""Features of a device's samples, kept on disk from one epoch to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgefl.personalize.split import Parts
from edgefl.runtime.feature_cache import FeatureCache

__all__ = ["Caches", "opened_caches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """One for each part of the samples.

    Attributes:
        training: Of the samples trained on, what training makes of them.
        validation: Of the others, what answering makes of them.
    """

    training: FeatureCache
    validation: FeatureCache

    @property
    def used_bytes(self) -> int:
        """What both take on disk."""
        return self.training.used_bytes + self.validation.used_bytes


@contextmanager
def opened_caches(folder: Path, budget_bytes: int, parts: Parts) -> Iterator[Caches | None]:
    """Open caches in a folder until the block ends; None where there is no room for any.

    Args:
        folder: Where their files lie, which have no names.
        budget_bytes: The most that both may take; each part of the samples has its share.
        parts: The samples.
    """
    if not budget_bytes:
        yield None
        return
    num_training, num_validation = len(parts.training.labels), len(parts.validation.labels)
    for_training = budget_bytes * num_training // (num_training + num_validation)
    with FeatureCache(folder, for_training) as training, FeatureCache(folder, budget_bytes - for_training) as rest:
        yield Caches(training=training, validation=rest)
