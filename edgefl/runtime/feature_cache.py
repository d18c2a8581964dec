"""What training makes of each sample before it reads anything trained, kept on disk from one epoch to the next."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Self

import numpy as np

from edgefl.errors import StorageError
from edgefl.runtime.output_shapes import Shape
from edgefl.runtime.weights import FloatArray

__all__ = ["FeatureCache"]

logger = logging.getLogger(__name__)


class _Table:
    """Rows of one shape in a file that has no name any more: it is gone with the process, however that ends."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.shape, self.row_bytes = shape, 4 * prod(shape)
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # open as long as the table is
        self._places: dict[int, int] = {}

    def close(self) -> None:
        self._file.close()

    def __contains__(self, index: int) -> bool:
        return index in self._places

    def write(self, index: int, row: FloatArray) -> None:
        place = len(self._places)
        data = np.ascontiguousarray(row).data.cast("B")
        start = place * self.row_bytes
        while data:
            written = os.pwrite(self._file.fileno(), data, start)
            data, start = data[written:], start + written
        self._places[index] = place

    def read(self, index: int, row: FloatArray) -> None:
        data, start = row.data.cast("B"), self._places[index] * self.row_bytes
        if os.preadv(self._file.fileno(), [data], start) != len(data):
            raise StorageError(f"features of sample {index} are cut short; is the disk full or damaged?")


class FeatureCache:
    """Keeps features on disk within a budget until its block ends: what comes first stays.

    Read and written, not mapped: memory that a device does not have would be counted as taken.

    Attributes:
        budget_bytes: The most that all files together take.
        used_bytes: What they take.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        """Prepare; nothing is written yet.

        Args:
            folder: Where the files lie.
            budget_bytes: The most they may take.
        """
        self.budget_bytes, self.used_bytes = budget_bytes, 0
        self._folder = folder
        self._tables: dict[str, _Table] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        for table in self._tables.values():
            table.close()
        self._tables.clear()

    def has(self, digests: Iterable[str], index: int) -> bool:
        """Say whether all of some features are there for a sample."""
        return all(digest in self._tables and index in self._tables[digest] for digest in digests)

    def put(self, index: int, rows: Mapping[str, FloatArray]) -> None:
        """Keep features of a sample, if there is room for all of them.

        Where they cannot be written, a warning says so and the disk gets back what was kept: training goes on without.

        Args:
            index: The sample.
            rows: By digest, as of `Model.feature_digests`; of one shape for all samples.
        """
        new = {digest: row for digest, row in rows.items() if not self.has([digest], index)}
        num_bytes = sum(row.nbytes for row in new.values())
        if self.used_bytes + num_bytes > self.budget_bytes:
            return
        try:
            for digest, row in new.items():
                if digest not in self._tables:
                    self._tables[digest] = _Table(self._folder, row.shape)
                self._tables[digest].write(index, row)
        except OSError as error:
            logger.warning("no more features are kept in %s: %s", self._folder, error.strerror)
            self.budget_bytes = self.used_bytes = 0
            self._close()
        else:
            self.used_bytes += num_bytes

    def get(self, digest: str, indices: Sequence[int]) -> FloatArray:
        """Return a feature of samples that have it, (B, ...).

        Raises:
            StorageError: If it cannot be read.
        """
        table = self._tables[digest]
        rows = np.empty((len(indices), *table.shape), np.float32)
        try:
            for place, index in enumerate(indices):
                table.read(index, rows[place])
        except OSError as error:
            raise StorageError(f"cannot read features in {self._folder}: {error.strerror}") from error
        return rows
