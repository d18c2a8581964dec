"""Measure one exit in a process of its own, so that its memory peak is nobody else's.

Started by `edgefl.measure.exits` as `python -m edgefl.measure.child`; reads a `Task` on standard input and writes a
`Raw` on standard output, both JSON.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from edgefl.measure.memory import anonymous_rss, mapped_rss, peak_rss

if TYPE_CHECKING:  # imported only when there is an exit to measure
    from edgefl.runtime.model import Model

__all__ = ["Raw", "Task", "measure"]


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to measure.

    Attributes:
        folder: The bundle.
        mode: Inference, a local step of SGD with momentum 0.9, or nothing but the imports.
        exit_index: The exit.
        batch: Samples of one inference or local step.
        memory: Memory knob; None for the programs themselves.
        repetitions: Timed runs, after one that is not.
    """

    folder: str
    mode: Literal["infer", "train", "baseline"]
    exit_index: int = 0
    batch: int = 1
    memory: str | None = None
    repetitions: int = 1


class Raw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured.

    Attributes:
        peak_rss: Bytes, of the whole process.
        anonymous_peak: Bytes no file backs, sampled between calls, a lower bound; of the imports alone what they leave.
        mapped_weights: Resident bytes of the bundle's mapped weight files.
        seconds: Of each timed run.
    """

    peak_rss: int
    anonymous_peak: int = 0
    mapped_weights: int = 0
    seconds: list[float] = []


class _AnonymousPeak:
    """Keeps the largest sample; called between program calls while it watches."""

    def __init__(self) -> None:
        self.bytes, self.watching = 0, True

    def __call__(self) -> None:
        # Reading /proc takes as long as a small graph: the timed runs are not watched.
        if self.watching:
            self.bytes = max(self.bytes, anonymous_rss())


def measure(task: Task) -> Raw:
    """Measure in this process.

    Raises:
        BundleError: If the folder is no bundle.
        ExitsError: If it does not have the exit.
    """
    from edgefl.bundle import Bundle  # the baseline is what these imports cost
    from edgefl.runtime.model import Model

    if task.mode == "baseline":
        return Raw(peak_rss=peak_rss(), anonymous_peak=anonymous_rss())
    # The parent has hashed the files: reading them here would count their pages as this exit's.
    bundle = Bundle(Path(task.folder), verify=False)
    anonymous = _AnonymousPeak()
    model = Model(bundle, bundle.adapter(), memory=task.memory, between_calls=anonymous)
    once = _workload(model, task)
    once()
    weights = {bundle.path(tensor.file) for tensor in bundle.manifest.tensors.values()}
    mapped = mapped_rss(list(weights))
    anonymous.watching = False
    seconds = [_timed(once) for _ in range(task.repetitions)]
    return Raw(peak_rss=peak_rss(), anonymous_peak=anonymous.bytes, mapped_weights=mapped, seconds=seconds)


def _workload(model: Model, task: Task) -> Callable[[], None]:
    """Return one inference, or one local step of SGD with momentum 0.9, on random samples."""
    import numpy as np

    from edgefl.runtime.gradients import Gradients
    from edgefl.runtime.optimizer import Sgd
    from edgefl.runtime.random_samples import random_samples

    samples = random_samples(model, task.batch)
    if task.mode == "infer":
        return lambda: list(model.infer(samples, task.exit_index)).clear()
    labels = np.arange(task.batch) % model.bundle.manifest.model.classes
    model.use_adapter({name: np.array(array) for name, array in model.adapter.items()})
    gradients, optimizer = Gradients(model.adapter, momentum=0.9), Sgd(learning_rate=1e-3)

    def step() -> None:
        gradients.clear()
        model.accumulate(gradients, samples, labels, task.exit_index)
        optimizer.step(model.adapter, gradients.arrays, gradients.coverage)

    return step


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    result = measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Task))
    sys.stdout.buffer.write(msgspec.json.encode(result))
