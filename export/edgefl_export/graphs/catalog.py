"""Every graph of the Accumulator method, by name: its module, inputs, outputs and the shapes they have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from edgefl.core.tensor_slice import TensorSlice
from edgefl_export.graphs.accumulator_graphs import MODULATED, AccumulatorGraphs
from edgefl_export.graphs.block import (
    BLOCK_WEIGHTS,
    PARALLEL_WEIGHTS,
    SAVED,
    TRANSPOSED,
    Block,
    BlockShape,
    Embed,
    Rows,
    Saving,
    stored_key,
)
from edgefl_export.graphs.block_vjp import BlockVjp, Inputs
from edgefl_export.graphs.spec import EXAMPLE_BATCH, GraphSpec
from edgefl_export.model.network import AccumulatorNetwork

__all__ = ["Catalog", "block_name", "vjp_name"]

_BATCH = {0: "batch"}
_ROWS: tuple[Rows, ...] = ("all", "cls")
_SAVING: dict[Saving, str] = {"nothing": "", "little": "_saved_lean", "all": "_saved"}
_INPUTS: dict[Inputs, str] = {"all": "", "cls": "_cls", "none": "_adapter"}


def block_name(rows: Rows, saving: Saving) -> str:
    """Return the name of a block's forward graph."""
    return "block" + ("_exit" if rows == "cls" else "") + _SAVING[saving]


def vjp_name(rows: Rows, inputs: Inputs, saving: Saving) -> str:
    """Return the name of a block's VJP graph."""
    lean = "_lean" if saving == "little" else ""
    return "block" + ("_exit" if rows == "cls" else "") + "_vjp" + _INPUTS[inputs] + lean


def _answers(rows: Rows) -> tuple[str, ...]:
    return ("cls_out", "patches_out") if rows == "all" else ("cls_out",)


class Catalog:
    """Makes graphs of one network by name."""

    def __init__(self, network: AccumulatorNetwork) -> None:
        self.network = network
        config, backbone = network.config, network.backbone
        self.parallel = bool(config.parallel_adapter_rank)
        self.block_shape = BlockShape(
            width=backbone.width,
            heads=backbone.heads,
            eps=backbone.blocks[0].norm1.eps,
            parallel_scale=config.parallel_adapter_scale if self.parallel else None,
        )
        self.accumulator = AccumulatorGraphs(network)

    def saved(self, saving: Saving) -> tuple[str, ...]:
        """What a block saves for its VJP."""
        names = SAVED[saving]
        return (*names, "parallel") if names and self.parallel else names

    def block_tensors(self, index: int) -> tuple[str, ...]:
        """Bundle keys of one block's weights, in the order its graphs take them."""
        width = self.network.backbone.width
        frozen = tuple(f"blocks.{index}.{stored_key(name, width)}" for name in BLOCK_WEIGHTS)
        return (*frozen, *self.parallel_tensors(index))

    def parallel_tensors(self, index: int) -> tuple[str, ...]:
        """Bundle names of one block's part of the parallel adapters; empty where there are none."""
        if not self.parallel:
            return ()
        return tuple(f"parallel_adapters.{name}[{index}:{index + 1}]" for name in PARALLEL_WEIGHTS)

    def spec(self, name: str) -> GraphSpec:
        """Return a whole graph by name."""
        if name == "embed":
            return self._embed()
        if (found := self.accumulator.spec(name)) is not None:
            return found
        return self._blocks()[name]()

    def part_of(self, name: str) -> tuple[str, tuple[str, ...]] | None:
        """Return the graph that a graph is a part of, and which of its outputs are left; None if it is whole."""
        if name == "modulate":
            return "modulate_saved", MODULATED
        parts = {
            block_name(rows, saving): (block_name(rows, "all"), (*_answers(rows), *self.saved(saving)))
            for rows in _ROWS
            for saving in _SAVING
            if saving != "all"
        }
        return parts.get(name)

    def _blocks(self) -> dict[str, Callable[[], GraphSpec]]:
        """Return a maker of each block graph by its name."""
        forward = {block_name(rows, "all"): partial(self._block, rows) for rows in _ROWS}
        backward = {
            vjp_name(rows, inputs, saving): partial(self._block_vjp, rows, inputs, saving)
            for rows in _ROWS
            for inputs in _INPUTS
            for saving in _SAVING
            if saving != "nothing"
        }
        return {**forward, **backward}

    def _embed(self) -> GraphSpec:
        backbone = self.network.backbone
        samples = torch.zeros(EXAMPLE_BATCH, backbone.channels, backbone.image_size, backbone.image_size)
        names = ("patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed")
        return GraphSpec(
            module=Embed(backbone.patch_size),
            inputs=("samples", *names),
            outputs=("cls", "patches"),
            example=(samples, *(backbone.frozen()[name] for name in names)),
            axes={"samples": _BATCH},
        )

    def _block(self, rows: Rows) -> GraphSpec:
        cls, patches = self._tokens()
        return GraphSpec(
            module=Block(self.block_shape, rows),
            inputs=("cls", "patches", *self._block_inputs()),
            outputs=(*_answers(rows), *self.saved("all")),
            example=(cls, patches, *self._block_example()),
            axes={"cls": _BATCH, "patches": _BATCH},
        )

    def _block_vjp(self, rows: Rows, inputs: Inputs, saving: Saving) -> GraphSpec:
        made = Block(self.block_shape, rows)(*self._tokens(), *self._block_example())
        results = dict(zip((*_answers(rows), *self.saved("all")), made, strict=True))
        gradients = ("at_cls_out", "at_patches_out") if rows == "all" else ("at_cls_out",)
        at_inputs = {"all": ("at_cls", "at_patches"), "cls": ("at_cls",), "none": ()}[inputs]
        adapter = tuple(f"at_{name}" for name in PARALLEL_WEIGHTS) if self.parallel else ()
        saved = self.saved(saving)
        return GraphSpec(
            module=BlockVjp(self.block_shape, rows, inputs, saving),
            inputs=(*gradients, *saved, *self._block_inputs()),
            outputs=(*at_inputs, *adapter),
            example=(*(results[name] for name in (*_answers(rows), *saved)), *self._block_example()),
            axes=dict.fromkeys((*gradients, *saved), _BATCH),
        )

    def _tokens(self) -> tuple[Tensor, Tensor]:
        backbone = self.network.backbone
        cls = torch.zeros(EXAMPLE_BATCH, 1, backbone.width)
        return cls, torch.zeros(EXAMPLE_BATCH, backbone.tokens - 1, backbone.width)

    def _block_inputs(self) -> tuple[str, ...]:
        return (*BLOCK_WEIGHTS, *(PARALLEL_WEIGHTS if self.parallel else ()))

    def _block_example(self) -> list[Tensor]:
        frozen = dict(self.network.backbone.blocks[0].named_parameters())
        parts = [TensorSlice.parse(stored_key(name, self.network.backbone.width)) for name in BLOCK_WEIGHTS]
        tensors = [(frozen[p.name].T if p.name in TRANSPOSED else frozen[p.name])[p.index] for p in parts]
        if self.parallel:
            adapter = self.network.adapter()
            tensors += [adapter[f"parallel_adapters.{name}"][:1] for name in PARALLEL_WEIGHTS]
        return [tensor.detach().contiguous() for tensor in tensors]
