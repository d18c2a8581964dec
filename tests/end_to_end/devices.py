"""Devices as they are in real life: `edgefl client run` in a process of its own, with an image folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.golden_bundle import CLASSES, GOLDEN

ROOT = Path(__file__).parents[2]
SECONDS = 180
_INSTALLED = ROOT / ".venv-device" / "bin" / "python"
DEVICE_PYTHON = _INSTALLED if _INSTALLED.exists() else Path(sys.executable)
"""Interpreter of an environment with nothing but a device's packages, where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A simulated device.

    Attributes:
        folder: Everything it has.
        deepest_exit: What it affords.
    """

    folder: Path
    deepest_exit: int

    @property
    def samples(self) -> Path:
        """Its image folder."""
        return self.folder / "samples"

    @contextmanager
    def running(self, url: str) -> Iterator[subprocess.Popen[bytes]]:
        """Keep its client in a federation until the block ends."""
        where = ["--server", url, "--bundle", GOLDEN, "--samples", self.samples, "--state", self.folder / "state"]
        options = [*where, "--deepest-exit", self.deepest_exit]
        command = [DEVICE_PYTHON, "-m", "edgefl", "client", "run", *options]
        with (
            (self.folder / "log.txt").open("ab") as log,
            subprocess.Popen(
                [str(each) for each in command], cwd=ROOT, stderr=log, env=os.environ | {"EDGEFL_THREADS": "1"}
            ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()


def make_device(folder: Path, deepest_exit: int, num_examples: int) -> Device:
    """Write random images, different ones for each number of them, and return the device that has them."""
    random = np.random.default_rng(num_examples)
    device = Device(folder=folder, deepest_exit=deepest_exit)
    for number in range(num_examples):
        subfolder = device.samples / str(number % CLASSES)
        subfolder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(subfolder / f"{number}.png")
    return device
