"""A graph before it is lowered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from edgefl_export.formats.onnx import Axes

__all__ = ["EXAMPLE_BATCH", "GraphSpec"]

EXAMPLE_BATCH = 2
"""Samples in an example: a symbolic axis must not be 1 while tracing, or torch takes it for a broadcast one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """A graph that can be lowered.

    Attributes:
        module: What it computes.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        example: A tensor for each input.
        axes: Symbolic axes of the inputs that have any.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    example: tuple[Tensor, ...]
    axes: Mapping[str, Axes] = field(default_factory=dict)
