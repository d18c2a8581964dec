"""Parts of programs: the gradients that somebody wants, and what training does not change apart from what it does."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from edgefl.bundle.program import Call, Graph, Program
from edgefl.core.tensor_slice import TensorSlice

__all__ = ["WHOLE", "Part", "feature_digests"]

_SAMPLES = "samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What of a program to run.

    Attributes:
        trained: Adapter tensors whose gradients are wanted, by name; None for all.
        stage: `fixed` is what is made from samples and frozen tensors alone, and answers with the *features*, what the
            rest reads of it; `rest` is given them in place of samples; `whole` is both.
    """

    trained: frozenset[str] | None = None
    stage: Literal["whole", "fixed", "rest"] = "whole"

    def of(self, program: Program, trainable: Collection[str]) -> Program:
        """Return the part of a program, itself a program.

        Args:
            program: The program.
            trainable: Names of the adapter's tensors.
        """
        if self.stage == "fixed":
            return msgspec.structs.replace(
                program,
                inputs={_SAMPLES: program.inputs[_SAMPLES]},
                calls=_fixed_calls(program, trainable),
                outputs={name: [name] for name in _boundary(program, trainable)},
            )
        if self.stage == "rest":
            fixed = {id(call) for call in _fixed_calls(program, trainable)}
            calls = [call for call in program.calls if id(call) not in fixed]
            inputs = {name: given for name, given in program.inputs.items() if name != _SAMPLES}
            program = msgspec.structs.replace(program, inputs=inputs, calls=calls)
        return program if self.trained is None else _narrowed(program, self.trained)


WHOLE = Part()
"""All of a program."""


def feature_digests(program: Program, trainable: Collection[str], graphs: Mapping[str, Graph]) -> dict[str, str]:
    """Return the features of a program by name, each with a digest of how it is made from samples.

    Features of two programs of one bundle that have one digest are the same.

    Args:
        program: The program.
        trainable: Names of the adapter's tensors.
        graphs: All graphs of the bundle.
    """
    digests = {_SAMPLES: _SAMPLES}
    for call in _fixed_calls(program, trainable):
        made = [call.graph, *(digests.get(key, key) for key in call.inputs)]
        for name, output in zip(graphs[call.graph].outputs, call.outputs, strict=True):
            digests[output] = hashlib.sha256("\n".join([*made, name]).encode()).hexdigest()
    return {name: digests[name] for name in _boundary(program, trainable)}


def _fixed_calls(program: Program, trainable: Collection[str]) -> list[Call]:
    """Return the calls that are given nothing but samples, frozen tensors and what such calls make."""
    varying = set(program.inputs) - {_SAMPLES}
    fixed = []
    for call in program.calls:
        if any(key in varying or key.partition("[")[0] in trainable for key in call.inputs):
            varying.update(call.outputs)
        else:
            fixed.append(call)
    return fixed


def _boundary(program: Program, trainable: Collection[str]) -> tuple[str, ...]:
    """Return what fixed calls make and others read, in the order it is made."""
    fixed = _fixed_calls(program, trainable)
    made = [name for call in fixed for name in call.outputs if name]
    fixed_ids = {id(call) for call in fixed}
    read = {key for call in program.calls if id(call) not in fixed_ids for key in call.inputs}
    return tuple(name for name in made if name in read)


def _narrowed(program: Program, trained: frozenset[str]) -> Program:
    kept = {
        key: parts for key, parts in program.outputs.items() if key == "loss" or TensorSlice.parse(key).name in trained
    }
    return msgspec.structs.replace(program, outputs=kept)
