"""Notices a new adapter beside the bundle and hands it to the engine; no request is dropped for it."""

from __future__ import annotations

import logging
from pathlib import Path

from edgefl.bundle import Bundle
from edgefl.bundle.personal import current_adapter, personal_folder
from edgefl.errors import EdgeFLError
from edgefl.predict.calibration import calibration_path
from edgefl.serve.adapter_in_use import AdapterInUse
from edgefl.serve.engine import Engine
from edgefl.serve.metrics import Metrics

__all__ = ["AdapterWatch"]

logger = logging.getLogger(__name__)

_Seen = tuple[tuple[int, int, int] | None, ...]


class AdapterWatch:
    """Looks at the files that decide which adapter answers.

    The old adapter stays in memory, and in use, until the new one has been checked.
    """

    def __init__(self, bundle: Bundle, path: Path | None, engine: Engine, metrics: Metrics) -> None:
        """Look at nothing yet: what has changed since the service began to start is seen by the first `check`.

        Args:
            bundle: The bundle.
            path: The adapter that the service was told to use; None for the personal one or the bundle's own.
            engine: Uses what is found.
            metrics: Count it.
        """
        self._bundle, self._path, self._engine, self._metrics = bundle, path, engine, metrics
        own = bundle.folder / bundle.manifest.adapter.file
        adapters = [path] if path is not None else [own, personal_folder(bundle.folder)]
        self._files = [*adapters, calibration_path(bundle.folder)]
        self._seen: _Seen | None = None

    def check(self) -> None:
        """Use a new adapter if there is one that can be used; go on with the old one if it cannot."""
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            adapter = AdapterInUse.of(self._bundle, current_adapter(self._bundle, self._path))
        except EdgeFLError as error:
            self._metrics.swapped(used=False)
            logger.warning("the new adapter cannot be used, version %d stays: %s", self._engine.adapter.version, error)
            return
        if adapter.is_like(self._engine.adapter):
            return
        self._engine.use_adapter(adapter)
        self._metrics.swapped(used=True)
        logger.info("adapter version %d answers from now on", adapter.version)

    def _look(self) -> _Seen:
        return tuple(_state(path) for path in self._files)


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
