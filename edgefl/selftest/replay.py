"""Replay the golden values of a bundle and say how far this device is from the exporter."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

from edgefl.bundle import Bundle
from edgefl.bundle.program import with_knob
from edgefl.errors import SelfTestError
from edgefl.runtime.model import Model
from edgefl.runtime.weights import FloatArray
from edgefl.selftest.formula import formula_adapter
from edgefl.selftest.golden import Expected, Golden, read_golden

__all__ = ["Deviation", "Quantity", "Replay", "affordable_programs", "all_programs", "replay"]

Quantity = Literal["logits", "loss", "gradient_norm"]
Array = np.ndarray[Any, Any]

_LARGEST = 1e6
"""What NaN, infinity and a wrong shape count as: JSON has no infinity."""

_NORM_FLOOR = 1e-3
"""A gradient norm below this share of the exit's largest counts as this share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """How far one quantity of one program is from what the exporter computed.

    Attributes:
        exit_index: The exit.
        quantity: What was compared.
        value: Relative difference, from 0 to 1e6.
        where: The program, and of gradients the adapter tensor that is worst.
    """

    exit_index: int
    quantity: Quantity
    value: float
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a self-test found.

    Attributes:
        deviations: For each exit and quantity the largest over all programs, by exit.
        tolerance: The largest the bundle accepts.
        programs: How many programs were run.
        seconds: The whole self-test, opening the graphs included.
    """

    deviations: tuple[Deviation, ...]
    tolerance: float
    programs: int
    seconds: float

    @property
    def largest(self) -> float:
        """The largest deviation of all."""
        return max(deviation.value for deviation in self.deviations)

    def check(self) -> None:
        """Refuse a device that computes something else.

        Raises:
            SelfTestError: If a deviation is above the tolerance.
        """
        wrong = [d for d in self.deviations if d.value > self.tolerance]
        if wrong:
            figures = ", ".join(f"exit {d.exit_index} {d.quantity} {d.value:.1e} ({d.where})" for d in wrong)
            raise SelfTestError(
                f"this device does not compute what the exporter computed: {figures}; at most {self.tolerance:.0e} is "
                "accepted. Do not train or answer with this bundle here: copy or export it again, or install another "
                f"version of onnxruntime ({ort.__version__} now)"
            )


def all_programs(bundle: Bundle) -> list[str]:
    """Return `infer` and `train` of each tested exit, and every memory knob of the deepest one."""
    exits = bundle.manifest.selftest.exits
    plain = [f"{mode}/{e}" for e in exits for mode in ("infer", "train")]
    deepest = tuple(f"{name}/" for name in plain[-2:])
    names = (*bundle.manifest.programs, *bundle.manifest.variants)
    return plain + [name for name in names if name.startswith(deepest)]


def affordable_programs(model: Model, deepest_exit: int) -> list[str]:
    """Return what a device that trains no deeper than an exit can replay with the memory it uses anyway.

    Args:
        model: The bundle in use; its memory knob is the one tested.
        deepest_exit: One of the bundle's exits; the shallowest is always among the tested ones.
    """
    exits = [e for e in model.bundle.manifest.selftest.exits if e <= deepest_exit]
    return [with_knob(f"{mode}/{e}", model.memory) for e in exits for mode in ("infer", "train")]


# What overflows is not finite any more, and that is looked at.
@np.errstate(over="ignore", invalid="ignore")
def replay(model: Model, programs: Sequence[str]) -> Replay:
    """Run programs on the golden inputs with the formula's adapter.

    Args:
        model: A bundle in use; it has the adapter it had before when this is over.
        programs: `infer` and `train` programs of the tested exits, at least one.

    Raises:
        BundleError: If the self-test file, a graph or a program does not fit the manifest.
        SelfTestError: If the preprocessing gives no numbers.
    """
    started = time.perf_counter()
    manifest = model.bundle.manifest
    golden = read_golden(model.bundle)
    own = model.adapter
    model.use_adapter(formula_adapter({name: manifest.tensors[name].shape for name in manifest.adapter.tensors}))
    try:
        samples = model.preprocess(golden.images)
        if not np.isfinite(samples).all():
            raise SelfTestError("the preprocessing graph gives NaN or infinite samples here; export the bundle again")
        found = [deviation for name in programs for deviation in _deviations(model, name, samples, golden)]
    finally:
        model.use_adapter(own)
    return Replay(
        deviations=_worst(found),
        tolerance=manifest.selftest.tolerance,
        programs=len(programs),
        seconds=time.perf_counter() - started,
    )


def _deviations(model: Model, name: str, samples: FloatArray, golden: Golden) -> Iterator[Deviation]:
    program = model.bundle.program(name)
    exit_index = int(name.split("/")[1])
    expected = golden.exits[exit_index]
    if program.mode == "infer":
        logits = model.run(name, {"samples": samples})["logits"]
        value = _relative(logits, expected.logits, _size(expected.logits))
        yield Deviation(exit_index=exit_index, quantity="logits", value=value, where=name)
        return
    gradients = model.run(name, {"samples": samples, "labels": golden.labels})
    value = _relative(gradients.pop("loss"), np.float64(expected.loss), abs(expected.loss))
    yield Deviation(exit_index=exit_index, quantity="loss", value=value, where=name)
    value, tensor = max(_norm_deviations(gradients, expected))
    yield Deviation(exit_index=exit_index, quantity="gradient_norm", value=value, where=f"{tensor} in {name}")


def _norm_deviations(gradients: dict[str, Array], expected: Expected) -> Iterator[tuple[float, str]]:
    floor = _NORM_FLOOR * max(expected.gradient_norms.values())
    for tensor, wanted in expected.gradient_norms.items():
        # Summed in float64: half a million squares in a row would cost digits.
        norm = np.sqrt(np.sum(np.square(gradients[tensor]), dtype=np.float64))
        yield _relative(norm, np.float64(wanted), max(wanted, floor)), tensor


def _relative(found: Array | np.float64, expected: Array | np.float64, scale: float) -> float:
    """Return the largest difference as a share of `scale`."""
    if found.shape != expected.shape:
        return _LARGEST
    difference = _size(found - expected)
    if not scale:
        return _LARGEST if difference else 0.0
    return min(difference / scale, _LARGEST) if math.isfinite(difference) else _LARGEST


def _size(array: Array | np.float64) -> float:
    return float(np.abs(array).max())


def _worst(found: Sequence[Deviation]) -> tuple[Deviation, ...]:
    largest: dict[tuple[int, Quantity], Deviation] = {}
    for deviation in found:
        key = deviation.exit_index, deviation.quantity
        if key not in largest or deviation.value > largest[key].value:
            largest[key] = deviation
    return tuple(largest.values())
