"""The adapter that answers, and what is known of its confidences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from edgefl.bundle import Adapter, Bundle
from edgefl.predict.calibration import read_calibration
from edgefl.runtime.weights import FloatArray

__all__ = ["AdapterInUse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInUse:
    """An adapter with its calibration, replaced as one.

    Attributes:
        tensors: The trainable tensors by name.
        sha256: Digest of their data.
        version: Counts the server's aggregations.
        temperatures: Of each exit; 1 where nothing is calibrated.
        thresholds: Confidence at which an exit answers, by exit; none where nothing is calibrated.
    """

    tensors: Mapping[str, FloatArray]
    sha256: str
    version: int
    temperatures: Mapping[int, float]
    thresholds: dict[int, float]

    def is_like(self, other: Self) -> bool:
        """Say whether another one has the same values and the same calibration."""
        mine, others = ((each.sha256, each.thresholds, each.temperatures) for each in (self, other))
        return mine == others

    @classmethod
    def of(cls, bundle: Bundle, adapter: Adapter) -> Self:
        """Put an adapter together with its calibration.

        Raises:
            BadInputError: If there is a calibration that cannot be read.
        """
        calibration = read_calibration(bundle, adapter)
        return cls(
            # Not mapped: a file that somebody writes into would change what has been checked.
            tensors={name: np.array(array) for name, array in adapter.tensors.items()},
            sha256=adapter.digest(),
            version=adapter.version,
            temperatures=calibration.temperatures if calibration else dict.fromkeys(bundle.manifest.exits, 1.0),
            thresholds=calibration.thresholds if calibration else {},
        )
