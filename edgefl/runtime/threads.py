"""How many threads ONNX Runtime may use here: `EDGEFL_THREADS`, or one for each core."""

from __future__ import annotations

import os

from edgefl.core.report import this_device
from edgefl.errors import BadInputError

__all__ = ["allowed_threads"]


def allowed_threads() -> int:
    """Return the number of threads of this process's one pool.

    Raises:
        BadInputError: If EDGEFL_THREADS is no number from 1 to 1024.
    """
    text = os.environ.get("EDGEFL_THREADS", "")
    if not text:
        return this_device().cores
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1024):
        raise BadInputError(f"EDGEFL_THREADS is {text!r}, expected a number of threads from 1 to 1024")
    return int(text)
