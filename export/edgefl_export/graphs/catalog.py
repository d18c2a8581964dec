"""Every graph of the Accumulator method, by name: its module, inputs, outputs and the shapes they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgefl_export.formats.onnx import Axes
from edgefl_export.graphs.accumulator import Answer, AnswerVjp, CloseHistory, Modulate, ModulateVjp, OpenHistory
from edgefl_export.graphs.accumulator_stack import ACCUMULATOR_BLOCK_WEIGHTS, AccumulatorShape, head_weights
from edgefl_export.graphs.block import BLOCK_WEIGHTS, PARALLEL_WEIGHTS, TRANSPOSED, Block, BlockShape, Embed, Rows
from edgefl_export.graphs.block_vjp import BlockVjp, Inputs
from edgefl_export.model.network import AccumulatorNetwork

__all__ = ["Catalog", "GraphSpec", "block_name", "vjp_name"]

_BATCH = {0: "batch"}
_HISTORY = {0: "batch", 1: "tokens"}
# Symbolic axes must not be 1 while tracing, or torch takes them for broadcast ones.
_EXAMPLE_BATCH, _EXAMPLE_TOKENS = 2, 3


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
    axes: dict[str, Axes] = field(default_factory=dict)


def block_name(rows: Rows, *, save: bool) -> str:
    """Return the name of a block's forward graph."""
    return "block" + ("_exit" if rows == "cls" else "") + ("_saved" if save else "")


def vjp_name(rows: Rows, inputs: Inputs) -> str:
    """Return the name of a block's VJP graph."""
    suffix = {"all": "", "cls": "_cls", "none": "_adapter"}[inputs]
    return "block" + ("_exit" if rows == "cls" else "") + "_vjp" + suffix


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
        self.accumulator_shape = AccumulatorShape(
            width=config.width, heads=config.heads, depth=config.depth, residual=config.residual, head=config.head
        )

    @property
    def accumulator_tensors(self) -> tuple[str, ...]:
        """Adapter names of the Accumulator's blocks, in the order its graphs take them."""
        depth = self.network.config.depth
        return tuple(f"accumulator.blocks.{i}.{name}" for i in range(depth) for name in ACCUMULATOR_BLOCK_WEIGHTS)

    @property
    def head_tensors(self) -> tuple[str, ...]:
        """Adapter names of the head, in the order the answering graphs take them."""
        return tuple(f"head.{name}" for name in head_weights(self.network.config.head))

    @property
    def saved(self) -> tuple[str, ...]:
        """What a block saves for its VJP."""
        names = ("z", "q", "k", "v", "attention", "y", "hidden")
        return (*names, "parallel") if self.parallel else names

    def block_tensors(self, index: int) -> tuple[str, ...]:
        """Bundle names of one block's weights, in the order its graphs take them."""
        frozen = tuple(f"blocks.{index}.{name}" for name in BLOCK_WEIGHTS)
        return (*frozen, *self.parallel_tensors(index))

    def parallel_tensors(self, index: int) -> tuple[str, ...]:
        """Bundle names of one block's part of the parallel adapters; empty where there are none."""
        if not self.parallel:
            return ()
        return tuple(f"parallel_adapters.{name}[{index}:{index + 1}]" for name in PARALLEL_WEIGHTS)

    def spec(self, name: str) -> GraphSpec:
        """Return a graph by name."""
        simple = {
            "embed": self._embed,
            "open_history": self._open_history,
            "close_history": self._close_history,
            "modulate": self._modulate,
            "modulate_vjp": self._modulate_vjp,
            "answer": self._answer,
            "answer_vjp": self._answer_vjp,
        }
        if name in simple:
            return simple[name]()
        rows: Rows = "cls" if name.startswith("block_exit") else "all"
        if "_vjp" not in name:
            return self._block(rows, save=name.endswith("_saved"))
        inputs: Inputs = "cls" if name.endswith("_cls") else "none" if name.endswith("_adapter") else "all"
        return self._block_vjp(rows, inputs)

    def _embed(self) -> GraphSpec:
        backbone = self.network.backbone
        samples = torch.zeros(_EXAMPLE_BATCH, backbone.channels, backbone.image_size, backbone.image_size)
        names = ("patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed")
        return GraphSpec(
            module=Embed(backbone.patch_size),
            inputs=("samples", *names),
            outputs=("cls", "patches"),
            example=(samples, *(backbone.frozen()[name] for name in names)),
            axes={"samples": _BATCH},
        )

    def _block(self, rows: Rows, *, save: bool) -> GraphSpec:
        cls, patches = self._tokens()
        outputs = ("cls_out", "patches_out") if rows == "all" else ("cls_out",)
        return GraphSpec(
            module=Block(self.block_shape, rows, save=save),
            inputs=("cls", "patches", *self._block_inputs()),
            outputs=(*outputs, *self.saved) if save else outputs,
            example=(cls, patches, *self._block_example()),
            axes={"cls": _BATCH, "patches": _BATCH},
        )

    def _block_vjp(self, rows: Rows, inputs: Inputs) -> GraphSpec:
        forward = Block(self.block_shape, rows, save=True)
        results = forward(*self._tokens(), *self._block_example())
        gradients = ("at_cls_out", "at_patches_out") if rows == "all" else ("at_cls_out",)
        at_inputs = {"all": ("at_cls", "at_patches"), "cls": ("at_cls",), "none": ()}[inputs]
        adapter = tuple(f"at_{name}" for name in PARALLEL_WEIGHTS) if self.parallel else ()
        return GraphSpec(
            module=BlockVjp(self.block_shape, rows, inputs),
            inputs=(*gradients, *self.saved, *self._block_inputs()),
            outputs=(*at_inputs, *adapter),
            example=(*results, *self._block_example()),
            axes=dict.fromkeys((*gradients, *self.saved), _BATCH),
        )

    def _open_history(self) -> GraphSpec:
        return GraphSpec(
            module=OpenHistory(),
            inputs=("client_token", "cls"),
            outputs=("history",),
            example=(torch.zeros(self.network.config.width), self._tokens()[0]),
            axes={"cls": _BATCH},
        )

    def _close_history(self) -> GraphSpec:
        return GraphSpec(
            module=CloseHistory(),
            inputs=("at_history",),
            outputs=("at_client_token",),
            example=(self._tokens()[0],),
            axes={"at_history": _BATCH},
        )

    def _modulate(self) -> GraphSpec:
        return GraphSpec(
            module=Modulate(self.accumulator_shape),
            inputs=("history", "cls", "positions", *self.accumulator_tensors),
            outputs=("modified", "history_out"),
            example=(*self._history(), *self._adapter_example(self.accumulator_tensors)),
            axes={"history": _HISTORY, "cls": _BATCH},
        )

    def _modulate_vjp(self) -> GraphSpec:
        history, cls, positions = self._history()
        at_next = torch.zeros(_EXAMPLE_BATCH, _EXAMPLE_TOKENS + 1, history.shape[2])
        return GraphSpec(
            module=ModulateVjp(self.accumulator_shape),
            inputs=("at_modified", "at_history_out", "history", "cls", "positions", *self.accumulator_tensors),
            outputs=("at_cls", "at_history", "at_positions", *_at(self.accumulator_tensors)),
            example=(cls, at_next, history, cls, positions, *self._adapter_example(self.accumulator_tensors)),
            axes={
                "at_modified": _BATCH,
                "at_history_out": {0: "batch", 1: "tokens_out"},
                "history": _HISTORY,
                "cls": _BATCH,
            },
        )

    def _answer(self) -> GraphSpec:
        tensors = (*self.accumulator_tensors, *self.head_tensors)
        return GraphSpec(
            module=Answer(self.accumulator_shape),
            inputs=("history", "cls", "positions", *tensors),
            outputs=("logits",),
            example=(*self._history(), *self._adapter_example(tensors)),
            axes={"history": _HISTORY, "cls": _BATCH},
        )

    def _answer_vjp(self) -> GraphSpec:
        tensors = (*self.accumulator_tensors, *self.head_tensors)
        labels = torch.zeros(_EXAMPLE_BATCH, dtype=torch.int64)
        return GraphSpec(
            module=AnswerVjp(self.accumulator_shape),
            inputs=("labels", "weights", "history", "cls", "positions", *tensors),
            outputs=("loss", "at_cls", "at_history", "at_positions", *_at(tensors)),
            example=(labels, torch.ones(_EXAMPLE_BATCH), *self._history(), *self._adapter_example(tensors)),
            axes={"labels": _BATCH, "weights": _BATCH, "history": _HISTORY, "cls": _BATCH},
        )

    def _tokens(self) -> tuple[Tensor, Tensor]:
        backbone = self.network.backbone
        cls = torch.zeros(_EXAMPLE_BATCH, 1, backbone.width)
        return cls, torch.zeros(_EXAMPLE_BATCH, backbone.tokens - 1, backbone.width)

    def _history(self) -> tuple[Tensor, Tensor, Tensor]:
        config = self.network.config
        history = torch.zeros(_EXAMPLE_BATCH, _EXAMPLE_TOKENS, config.width)
        return history, self._tokens()[0], torch.zeros(config.position_rows, config.width)

    def _block_inputs(self) -> tuple[str, ...]:
        return (*BLOCK_WEIGHTS, *(PARALLEL_WEIGHTS if self.parallel else ()))

    def _block_example(self) -> list[Tensor]:
        frozen = dict(self.network.backbone.blocks[0].named_parameters())
        tensors = [frozen[name].T if name in TRANSPOSED else frozen[name] for name in BLOCK_WEIGHTS]
        if self.parallel:
            adapter = self.network.adapter()
            tensors += [adapter[f"parallel_adapters.{name}"][:1] for name in PARALLEL_WEIGHTS]
        return [tensor.detach().contiguous() for tensor in tensors]

    def _adapter_example(self, names: Sequence[str]) -> list[Tensor]:
        adapter = self.network.adapter()
        return [adapter[name].detach() for name in names]


def _at(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"at_{name}" for name in names)
