"""`edgefl serve` as a process, and what its clients send."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.golden_bundle import GOLDEN


@dataclass
class Service:
    """A running service.

    Attributes:
        address: Where it is.
        process: Its process.
    """

    address: str
    process: subprocess.Popen[str]

    def ended(self) -> tuple[int, str]:
        """Wait for its end and return the exit code and what it said."""
        said = self.process.communicate(timeout=60)
        return self.process.returncode, "".join(said)


@contextmanager
def served(*options: object, bundle: Path = GOLDEN, listen: str = "127.0.0.1:0") -> Iterator[Service]:
    command = [sys.executable, "-m", "edgefl", "serve", str(bundle), "--listen", listen, *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                _, said = process.communicate(timeout=60)
                raise AssertionError(f"it ended with {process.returncode}: {said}")
            yield Service(line.rpartition(" at ")[2].strip(), process)
        finally:
            process.terminate()
            process.wait(60)


def refused(*options: object, bundle: Path = GOLDEN) -> tuple[int, str]:
    """Start a service that cannot start; return its exit code and what it said."""
    command = [sys.executable, "-m", "edgefl", "serve", str(bundle), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr
