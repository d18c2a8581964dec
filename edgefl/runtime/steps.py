"""What a program's calls are given, make and leave behind, worked out once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgefl.bundle.program import Graph, Program

__all__ = ["Step", "plan_steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call.

    Attributes:
        graph: The graph's name.
        inputs: What is bound: (name in the graph, program input, made tensor or key).
        packed: What is given when the graph is opened, and packed: (name in the graph, key).  Empty for a session that
            serves all calls of the graph.
        wanted: Its outputs that somebody needs: (name in the graph, name in the program).
        handed_on: Tensors it makes only for later calls.
        freed: Tensors nobody needs after it.
        answers: Keys of the program's outputs that it adds to: (key, tensor).
        only_answers: Whether nothing later reads what it makes, so that it need not run where nobody wants its answers.
    """

    graph: str
    inputs: tuple[tuple[str, str], ...]
    packed: tuple[tuple[str, str], ...]
    wanted: tuple[tuple[str, str], ...]
    handed_on: frozenset[str]
    freed: tuple[str, ...]
    answers: tuple[tuple[str, str], ...]
    only_answers: bool


def plan_steps(program: Program, graphs: Mapping[str, Graph], *, packs: bool) -> tuple[Step, ...]:
    """Find out what each call is given, what it makes, which tensors die with it and which answers it completes.

    Args:
        program: The program.
        graphs: All graphs of the bundle.
        packs: Whether it runs the packed graphs.

    Returns:
        The calls in order, without those that nobody needs.
    """
    keys_by_tensor: dict[str, list[str]] = {}
    for key, parts in program.outputs.items():
        for tensor in parts:
            keys_by_tensor.setdefault(tensor, []).append(key)
    local = set(program.inputs) | {tensor for call in program.calls for tensor in call.outputs}
    needed_later: set[str] = set()
    steps: list[Step] = []
    for call in reversed(program.calls):
        graph = graphs[call.graph]
        outputs = zip(graph.outputs, call.outputs, strict=True)
        wanted = tuple(pair for pair in outputs if pair[1] in needed_later or pair[1] in keys_by_tensor)
        if not wanted:
            continue
        weights = graph.packed.weights if packs and graph.packed is not None else ()
        inputs = tuple(zip(graph.inputs, call.inputs, strict=True))
        touched = {tensor for _, tensor in wanted} | (set(call.inputs) & local)
        steps.append(
            Step(
                graph=call.graph,
                inputs=tuple(pair for pair in inputs if pair[0] not in weights),
                packed=tuple(pair for pair in inputs if pair[0] in weights),
                wanted=wanted,
                handed_on=frozenset(tensor for _, tensor in wanted if tensor not in keys_by_tensor),
                freed=tuple(touched - needed_later),
                answers=tuple((key, tensor) for _, tensor in wanted for key in keys_by_tensor.get(tensor, ())),
                only_answers=needed_later.isdisjoint(tensor for _, tensor in wanted),
            )
        )
        needed_later = (needed_later - set(call.outputs)) | (set(call.inputs) & local)
    return tuple(reversed(steps))
