"""Small programs of the system that know what no file tells."""

from __future__ import annotations

import subprocess

__all__ = ["output_of"]

_MOST_SECONDS = 2.0


def output_of(*command: str) -> str | None:
    """Return what a command prints, stripped; None if it is missing, fails or takes longer than two seconds."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_MOST_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()
