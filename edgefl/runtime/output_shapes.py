"""The shapes a graph is going to make, from what it declares and the shapes it is given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod

__all__ = ["Shape", "resolve_shapes"]

Shape = tuple[int, ...]

_TERM = re.compile(r"\w{1,80}(?:\*\w{1,80})*")

_DIGITS = 10


def resolve_shapes(
    inputs: Sequence[Sequence[int | str]],
    given: Sequence[Shape | None],
    outputs: Mapping[str, Sequence[int | str | None]],
) -> dict[str, Shape | None]:
    """Work out output shapes.

    Args:
        inputs: Declared shape of each input: lengths, or names for them.
        given: The shape each of them gets; None where its names do not matter.
        outputs: Declared shapes: lengths, names of the inputs, or sums of products of both, such as `2*batch + 1`.

    Returns:
        The shape of each output; None where it says something else.
    """
    sizes = {
        name: size
        for declared, shape in zip(inputs, given, strict=True)
        if shape is not None
        for name, size in zip(declared, shape, strict=True)
        if isinstance(name, str)
    }
    found = {}
    for name, declared in outputs.items():
        lengths = [_length(length, sizes) for length in declared]
        found[name] = tuple(length for length in lengths if length is not None) if None not in lengths else None
    return found


def _length(declared: int | str | None, sizes: Mapping[str, int]) -> int | None:
    if not isinstance(declared, str):
        return declared
    terms = declared.split(" + ")
    factors = [term.split("*") for term in terms if _TERM.fullmatch(term)]
    known = [[sizes.get(f, int(f) if f.isdecimal() and len(f) < _DIGITS else -1) for f in term] for term in factors]
    if len(factors) != len(terms) or any(-1 in term for term in known):
        return None
    return sum(map(prod, known))
