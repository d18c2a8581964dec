"""Programs: which graph to call in which order with which tensors.

A program is data, so the interpreter of Python and the one of Kotlin need no code of any method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from edgefl.core.tensor_slice import TensorSlice
from edgefl.errors import ManifestError

__all__ = [
    "Call",
    "Graph",
    "Input",
    "PackedGraph",
    "Program",
    "check_answers",
    "check_inputs",
    "check_program",
    "with_knob",
]

_Size = Annotated[int, msgspec.Meta(ge=1)]


class PackedGraph(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A graph once more, with constants where the other has frozen tensors as inputs; a runtime may rearrange them.

    Attributes:
        file: Its path inside the bundle.
        weights: The inputs that are constants here, to be given when the file is opened.
    """

    file: str
    weights: Annotated[list[str], msgspec.Meta(min_length=1)]


class Graph(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file that a runtime can execute.

    Attributes:
        file: Its path inside the bundle.
        inputs: Its inputs, in order.
        outputs: Its outputs, in order.
        packed: The file to open instead where frozen weights are packed, None if it has none.
    """

    file: str
    inputs: list[str]
    outputs: list[str]
    packed: PackedGraph | None = None


class Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a program wants from its caller.

    Attributes:
        dtype: Numpy's name of the element type.
        shape: Its shape, None where any size will do.
    """

    dtype: Literal["float32", "int64", "uint8"]
    shape: list[_Size | None]


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One graph, run once.

    Attributes:
        graph: Name of the graph.
        inputs: For each input of the graph: a program input, a bundle tensor or rows of one
            (`name[start:stop]`), or what an earlier call produced.
        outputs: For each output of the graph: the name it gets in the program, or empty where nobody needs it.
    """

    graph: str
    inputs: list[str]
    outputs: list[str]


class Program(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Calls in order.

    Attributes:
        mode: What the program is for.
        inputs: What the caller gives, by name.
        calls: What to run.
        outputs: What the program answers: each key is the sum of the tensors named.  For gradients the key is the
            adapter tensor, or the part of it, that the gradient belongs to: the keys are the program's coverage.
        exit_index: The exit it ends at, None where that has no meaning.
        batch: Samples the program takes at once, None for any number.
    """

    mode: Literal["preprocess", "infer", "anytime", "train"]
    inputs: dict[str, Input]
    calls: list[Call]
    outputs: dict[str, list[str]]
    exit_index: Annotated[int, msgspec.Meta(ge=0)] | None
    batch: _Size | None

    @property
    def coverage(self) -> tuple[TensorSlice, ...]:
        """The parts of the adapter that a training program's gradient reaches."""
        return tuple(TensorSlice.parse(key) for key in self.outputs if key != "loss") if self.mode == "train" else ()


def with_knob(name: str, memory: str | None) -> str:
    """Return the name of what a memory knob makes of a program; None is the program itself."""
    return name if memory is None else f"{name}/{memory}"


def check_answers(name: str, program: Program, exits: Sequence[int]) -> None:
    """Refuse a program whose name, exit and answers do not belong together.

    Args:
        name: The program's name.
        program: The program.
        exits: The bundle's exits, rising.

    Raises:
        ManifestError: If the name is not that of its mode and exit, if the bundle does not have the exit, or if it
            does not answer what programs of its mode answer.
    """
    at_exit = program.mode in {"infer", "train"}
    stem = f"{program.mode}/{program.exit_index}" if at_exit else program.mode
    if not f"{name}/".startswith(f"{stem}/") or (at_exit and program.exit_index not in exits):
        raise ManifestError(f"program {name!r} has mode {program.mode!r} and exit {program.exit_index}")
    if program.mode == "train":
        fits, expected = "loss" in program.outputs, "loss and gradients"
    else:
        answers = {"preprocess": ["samples"], "infer": ["logits"]}
        wanted = answers.get(program.mode, [f"logits_{exit_index:02d}" for exit_index in exits])
        single = all(len(parts) == 1 for parts in program.outputs.values())
        fits, expected = sorted(program.outputs) == wanted and single, f"{', '.join(wanted)}, one tensor each"
    if not fits:
        raise ManifestError(f"program {name!r} answers {', '.join(program.outputs) or 'nothing'}, expected {expected}")


_INPUTS = {
    "preprocess": {"images": ("uint8", 4)},
    "infer": {"samples": ("float32", 4)},
    "anytime": {"samples": ("float32", 4)},
    "train": {"samples": ("float32", 4), "labels": ("int64", 1), "weights": ("float32", 1)},
}
"""What programs of each mode are given: dtype and number of axes, by name."""


def check_inputs(name: str, program: Program) -> None:
    """Refuse a program that is not given what programs of its mode are given.

    Raises:
        ManifestError: If an input has another name, dtype or number of axes; or takes a certain number of samples
            where only any number will do.
    """
    found = {key: (given.dtype, len(given.shape)) for key, given in program.inputs.items()}
    if found != _INPUTS[program.mode]:
        raise ManifestError(f"program {name!r} is given {found}; expected {_INPUTS[program.mode]}")
    # Only a training program's answers add up over pieces of a batch.
    lengths = {given.shape[0] for given in program.inputs.values()}
    if len(lengths) > 1 or (program.mode != "train" and (lengths, program.batch) != ({None}, None)):
        raise ManifestError(f"program {name!r} takes {lengths} samples, batch {program.batch}; expected any number")


def check_program(
    name: str, program: Program, graphs: Mapping[str, Graph], shapes: Mapping[str, Sequence[int]]
) -> None:
    """Refuse a program that cannot run.

    Args:
        name: The program's name, for messages.
        program: The program.
        graphs: All graphs of the bundle.
        shapes: Of all tensors of the bundle, by name.

    Raises:
        ManifestError: If an input is called like a tensor of the bundle; if a call names an unknown graph, has the
            wrong number of tensors, reads what does not exist yet or names an output that exists already; or if an
            answer is never computed.
    """
    for key in program.inputs:
        if key.partition("[")[0] in shapes:
            raise ManifestError(f"program {name!r} has an input {key!r}, which is a tensor of the bundle")
    known = set(program.inputs)
    for position, call in enumerate(program.calls):
        where = f"program {name!r}, call {position}"
        _check_call(where, call, graphs.get(call.graph))
        _check_reads(where, call, known, shapes)
        _check_made(where, call, known, shapes)
    for key, parts in program.outputs.items():
        if missing := sorted(set(parts) - (known - program.inputs.keys())) or not parts:
            raise ManifestError(f"program {name!r} answers {key!r} from {missing or 'nothing'}, which no call makes")


def _check_call(where: str, call: Call, graph: Graph | None) -> None:
    if graph is None:
        raise ManifestError(f"{where} runs graph {call.graph!r}, which the bundle does not have")
    if len(call.inputs) != len(graph.inputs) or len(call.outputs) != len(graph.outputs):
        raise ManifestError(f"{where} does not fit the inputs and outputs of graph {call.graph!r}")


def _check_reads(where: str, call: Call, known: set[str], shapes: Mapping[str, Sequence[int]]) -> None:
    for key in call.inputs:
        if key in known:
            continue
        shape = shapes.get(key.partition("[")[0])
        if shape is None:
            raise ManifestError(f"{where} reads {key!r}, which nothing before it makes")
        try:
            part = TensorSlice.parse(key)
            part.shape(tuple(shape))
        except ValueError as error:
            raise ManifestError(f"{where}: {error}") from error
        # Only rows lie side by side in the file; a runtime would have to copy any other part.
        if len(part.ranges) > 1:
            raise ManifestError(f"{where} reads {key!r}; only rows of a tensor can be read, name[start:stop]")


def _check_made(where: str, call: Call, known: set[str], shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse a name that is taken, and note those that are new."""
    for key in filter(None, call.outputs):
        if key in known or key.partition("[")[0] in shapes:
            raise ManifestError(f"{where} makes {key!r} a second time")
        known.add(key)
