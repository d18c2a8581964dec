"""What a device answers to each message; knows nothing of the network (docs/protocol.md)."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from threading import Event
from typing import Any

import numpy as np
import psutil

from edgefl.core.report import this_device
from edgefl.core.tensor_slice import TensorSlice
from edgefl.errors import InstructionError
from edgefl.fleet.content import Content
from edgefl.fleet.status import StoppedError
from edgefl.measure.memory import peak_rss
from edgefl.runtime.feature_cache import FeatureCache
from edgefl.runtime.local_training import LocalPlan, LocalResult, train_locally
from edgefl.runtime.model import Model
from edgefl.samples import Samples
from edgefl.update.instruction import PROTOCOL_VERSION, Instruction, Properties, ReplyHeader
from edgefl.version import __version__

__all__ = ["Session"]

FloatArray = np.ndarray[Any, np.dtype[np.float32]]

# The rest of an instruction's time is for the way back: an update that is late does not count.
_TRAINING_SHARE = 0.8


class Session:
    """A device's bundle and samples, ready to answer.

    Attributes:
        model: The bundle in use; its adapter is the one last trained.
        deepest_exit: The deepest exit the device can afford to train.
        rounds: Training instructions answered so far.
    """

    def __init__(
        self,
        model: Model,
        samples: Samples,
        deepest_exit: int,
        *,
        stop: Event,
        cache: FeatureCache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Get ready.

        Args:
            model: A bundle in use.
            samples: Local samples that fit it.
            deepest_exit: The deepest exit the device can afford to train.
            stop: When set, training ends after the step it is in, and without an answer.
            cache: Keeps what no round changes, of these samples.
            clock: Seconds from any start.
        """
        self.model = model
        self.deepest_exit = deepest_exit
        self.rounds = 0
        self._samples = samples
        self._stop = stop
        self._cache = cache
        self._clock = clock

    @property
    def work_digest(self) -> bytes:
        """Digest of what the device adds to an answer.

        The same instruction is other work with other samples, and a stock one names neither bundle nor exit.
        """
        own = f"{self.model.bundle.manifest.bundle_id} {self.deepest_exit} ".encode()
        return hashlib.sha256(own + self._samples.labels.tobytes()).digest()

    def answer(self, message_type: str, content: Content) -> Content:
        """Answer one message.

        Args:
            message_type: `query.properties` or `train`.
            content: What came with it.

        Raises:
            InstructionError: If it asks for something this device will not or cannot do.
            SamplesError: If a sample cannot be read.
            StoppedError: If `stop` was set before training was done.

        Whatever is raised, the model has the adapter it had before.
        """
        if message_type == "query.properties":
            return Content(configs={"properties": self._properties().to_config()})
        if message_type == "train":
            return self._train(content)
        raise InstructionError(
            f"{message_type!r} is no message this client answers; it knows query.properties and train"
        )

    def _properties(self) -> Properties:
        device = this_device()
        return Properties(
            edgefl=PROTOCOL_VERSION,
            bundle_id=self.model.bundle.manifest.bundle_id,
            deepest_exit=self.deepest_exit,
            num_examples=len(self._samples.labels),
            memory_bytes=psutil.virtual_memory().total,
            cores=device.cores,
            machine=device.machine,
            client=f"edgefl-python/{__version__}",
        )

    def _train(self, content: Content) -> Content:
        started = self._clock()
        config = content.configs.get("config", {})
        instruction = Instruction.from_config(config) if "edgefl" in config else None
        plan = _default_plan(self.deepest_exit) if instruction is None else self._checked_plan(instruction)
        ends = started + _TRAINING_SHARE * instruction.deadline_seconds if instruction else math.inf
        sent = self._checked_adapter(content.arrays)
        trained = {name: np.array(array) for name, array in sent.items()}
        result = self._trained(trained, plan, ends)
        self.rounds += 1
        metrics = {"metrics": _metrics(result, self._clock() - started)}
        if instruction is None:
            return Content(arrays=trained, metrics=metrics)
        return Content(
            arrays={part.key: _answered(part, trained, sent, instruction.reply) for part in result.coverage},
            configs={"reply": _header(instruction, plan, result).to_config()},
            metrics=metrics,
        )

    def _trained(self, adapter: dict[str, FloatArray], plan: LocalPlan, ends: float) -> LocalResult:
        """Train an adapter in place; the model keeps it only if that went well."""
        before = self.model.adapter
        self.model.use_adapter(adapter)
        try:
            result = train_locally(
                self.model, self._samples, plan, lambda: self._clock() < ends and not self._stop.is_set(), self._cache
            )
            self._check_result(result, adapter)
        except BaseException:
            self.model.use_adapter(before)
            raise
        return result

    def _check_result(self, result: LocalResult, adapter: Mapping[str, FloatArray]) -> None:
        if self._stop.is_set():
            raise StoppedError("stopped while training; the instruction is kept for the next start")
        if not result.steps:
            raise InstructionError("the time was over before the first step was done; allow more deadline_seconds")
        _check_finite(adapter, "training diverged: it ended with")

    def _checked_plan(self, instruction: Instruction) -> LocalPlan:
        own = self.model.bundle.manifest.bundle_id
        if instruction.bundle_id != own:
            raise InstructionError(
                f"the instruction is for bundle {instruction.bundle_id[:12]}, this device has {own[:12]}"
            )
        return LocalPlan(
            exit_index=self._affordable_exit(instruction),
            draw=instruction.draw,
            seed=instruction.seed,
            optimizer=instruction.optimizer,
            learning_rate=instruction.learning_rate,
            momentum=instruction.momentum,
            weight_decay=instruction.weight_decay,
            clip=instruction.clip,
            epochs=instruction.epochs,
            batch_size=instruction.batch_size,
        )

    def _affordable_exit(self, instruction: Instruction) -> int:
        """Return the exit asked for, or the deepest affordable one above it if the device has become smaller."""
        asked, exits = instruction.exit_index, self.model.exits
        affordable = [exit_index for exit_index in exits if exit_index <= min(asked, self.deepest_exit)]
        if asked not in exits or not affordable:
            raise InstructionError(
                f"exit {asked} cannot be trained here: the bundle has {list(exits)}, "
                f"this device affords exit {self.deepest_exit} at most"
            )
        return affordable[-1]

    def _checked_adapter(self, arrays: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        expected = {name: array.shape for name, array in self.model.adapter.items()}
        found = {name: array.shape for name, array in arrays.items()}
        if found != expected:
            different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            raise InstructionError(f"the adapter sent is not this bundle's: {', '.join(different)} differ")
        _check_finite(arrays, "the adapter sent has")
        return {name: arrays[name] for name in expected}


def _default_plan(deepest_exit: int) -> LocalPlan:
    """What a stock strategy, which sends no instruction, gets: one local epoch at the device's deepest exit."""
    return LocalPlan(
        exit_index=deepest_exit,
        draw="own",
        seed=0,
        optimizer="adamw",
        learning_rate=1e-3,
        momentum=0.0,
        weight_decay=0.0,
        clip=1.0,
        epochs=1,
        batch_size=32,
    )


def _check_finite(arrays: Mapping[str, FloatArray], what: str) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InstructionError(f"{what} NaN or infinite values in {name!r}")


def _header(instruction: Instruction, plan: LocalPlan, result: LocalResult) -> ReplyHeader:
    return ReplyHeader(
        edgefl=PROTOCOL_VERSION,
        bundle_id=instruction.bundle_id,
        adapter_version=instruction.adapter_version,
        round=instruction.round,
        exit_index=plan.exit_index,
        coverage=[part.key for part in result.coverage],
        reply=instruction.reply,
    )


def _answered(
    part: TensorSlice, trained: Mapping[str, FloatArray], sent: Mapping[str, FloatArray], reply: str
) -> FloatArray:
    new, old = trained[part.name][part.index], sent[part.name][part.index]
    return new - old if reply == "delta" else new


def _metrics(result: LocalResult, seconds: float) -> dict[str, int | float]:
    return {
        "num-examples": result.num_examples,
        "loss": result.loss,
        "steps": result.steps,
        "train_seconds": seconds,
        "peak_rss_bytes": peak_rss(),
    }
