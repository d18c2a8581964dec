"""The Accumulator's graphs by name: module, inputs, outputs and the shapes they have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgefl.core.tensor_slice import TensorSlice
from edgefl_export.graphs.accumulator import Modulate, ModulateVjp
from edgefl_export.graphs.accumulator_block import (
    ACCUMULATOR_LINEARS,
    ACCUMULATOR_WEIGHTS,
    AccumulatorShape,
    head_weights,
)
from edgefl_export.graphs.answer import Answer, AnswerVjp
from edgefl_export.graphs.history import AppendHistory, AppendHistoryVjp, CloseHistory, OpenHistory
from edgefl_export.graphs.spec import EXAMPLE_BATCH, GraphSpec
from edgefl_export.model.network import AccumulatorNetwork

__all__ = ["MODULATED", "SAVED", "AccumulatorGraphs"]

# Symbolic axes must not be 1 while tracing, or torch takes them for broadcast ones.
_EXAMPLE_TOKENS = 3
_BATCH = {0: "batch"}
_HISTORY = {0: "batch", 2: "tokens"}
_LONGER = {0: "batch", 2: "tokens+1"}


class AccumulatorGraphs:
    """Makes the Accumulator's graphs for one network."""

    def __init__(self, network: AccumulatorNetwork) -> None:
        self.network = network
        config = network.config
        self.shape = AccumulatorShape(
            width=config.width, heads=config.heads, residual=config.residual, head=config.head
        )

    @property
    def tensors(self) -> tuple[str, ...]:
        """Keys of the Accumulator's block, in the order its graphs take them."""
        width = self.shape.width
        parts = {"attn.q.weight": (0, width), "attn.kv.weight": (width, 3 * width)}
        return tuple(
            f"accumulator.blocks.0.attn.qkv.weight[{parts[name][0]}:{parts[name][1]}]"
            if name in parts
            else f"accumulator.blocks.0.{name}"
            for name in ACCUMULATOR_WEIGHTS
        )

    @property
    def head_tensors(self) -> tuple[str, ...]:
        """Adapter names of the head, in the order the answering graphs take them."""
        return tuple(f"head.{name}" for name in head_weights(self.shape.head))

    @property
    def linears(self) -> tuple[str, ...]:
        """Adapter names, without `.weight`, of the Accumulator's linear layers."""
        return tuple(f"accumulator.blocks.0.{name}" for name in ACCUMULATOR_LINEARS)

    @property
    def without_bias(self) -> str:
        """The one of them that has no bias; it alone also reads the client token when the history is opened."""
        return self.linears[0]

    @property
    def head_linears(self) -> tuple[str, ...]:
        """Adapter names, without `.weight`, of the head's linear layers."""
        return ("head.mlp.fc1", "head.mlp.fc2") if self.shape.head == "mlp" else ("head.mlp",)

    def spec(self, name: str) -> GraphSpec | None:
        """Return a graph by name, None if it is not one of these."""
        graphs = {
            "open_history": self._open_history,
            "append_history": self._append_history,
            "append_history_vjp": self._append_history_vjp,
            "close_history": self._close_history,
            "modulate_saved": self._modulate_saved,
            "modulate_vjp": self._modulate_vjp,
            "answer": self._answer,
            "answer_vjp": self._answer_vjp,
        }
        return graphs[name]() if name in graphs else None

    def _open_history(self) -> GraphSpec:
        return GraphSpec(
            module=OpenHistory(self.shape),
            inputs=("cls", "client_token", "position", *self.tensors),
            outputs=("keys", "values"),
            example=(self._token(), *self._client(), *self._adapter(self.tensors)),
            axes={"cls": _BATCH},
        )

    def _append_history(self) -> GraphSpec:
        kept = self._kept(_EXAMPLE_TOKENS)
        return GraphSpec(
            module=AppendHistory(self.shape),
            inputs=("keys", "values", "cls", "position", *self.tensors),
            outputs=("keys_out", "values_out"),
            example=(kept, kept, self._token(), self._position(), *self._adapter(self.tensors)),
            axes={"keys": _HISTORY, "values": _HISTORY, "cls": _BATCH},
        )

    def _append_history_vjp(self) -> GraphSpec:
        kept, longer = self._kept(_EXAMPLE_TOKENS), self._kept(_EXAMPLE_TOKENS + 1)
        return GraphSpec(
            module=AppendHistoryVjp(self.shape),
            inputs=("at_keys_out", "at_values_out", "keys", "cls", "position", *self.tensors),
            outputs=("at_keys", "at_values", "at_position", *_norm("norm1"), *_rows(("qkv",))),
            example=(longer, longer, kept, self._token(), self._position(), *self._adapter(self.tensors)),
            axes={"at_keys_out": _LONGER, "at_values_out": _LONGER, "keys": _HISTORY, "cls": _BATCH},
        )

    def _close_history(self) -> GraphSpec:
        kept = self._kept(1)
        row = torch.zeros(1, 1, self.shape.width)
        return GraphSpec(
            module=CloseHistory(self.shape),
            inputs=("at_keys", "at_values", "at_query", "at_token", "client_token", "position", *self.tensors),
            outputs=("at_client_token", "at_position", *_norm("norm1"), *_rows(("qkv",))),
            example=(kept, kept, row, row, *self._client(), *self._adapter(self.tensors)),
            axes={"at_keys": _BATCH, "at_values": _BATCH},
        )

    def _modulate_saved(self) -> GraphSpec:
        kept = self._kept(_EXAMPLE_TOKENS)
        return GraphSpec(
            module=Modulate(self.shape),
            inputs=("keys", "values", "cls", "position", *self.tensors),
            outputs=(*MODULATED, *SAVED),
            example=(kept, kept, self._token(), self._position(), *self._adapter(self.tensors)),
            axes={"keys": _HISTORY, "values": _HISTORY, "cls": _BATCH},
        )

    def _modulate_vjp(self) -> GraphSpec:
        kept, longer, token = self._kept(_EXAMPLE_TOKENS), self._kept(_EXAMPLE_TOKENS + 1), self._token()
        given = (kept, kept, token, self._position(), *self._adapter(self.tensors))
        modified, _, _, *saved = Modulate(self.shape)(*given)
        batch = ("at_modified", "cls", "modified", *(name for name in SAVED if name != "weights"))
        return GraphSpec(
            module=ModulateVjp(self.shape),
            inputs=(
                *("at_modified", "at_keys_out", "at_values_out", "keys", "values", "cls", "modified"),
                *SAVED,
                "position",
                *self.tensors,
            ),
            outputs=(
                *("at_cls", "at_keys", "at_values", "at_position"),
                *(*_norm("norm1"), *_norm("norm2"), *_rows(_LINEARS)),
            ),
            example=(token, longer, longer, kept, kept, token, modified, *saved, *given[3:]),
            axes=dict.fromkeys(batch, _BATCH)
            | dict.fromkeys(("keys", "values"), _HISTORY)
            | dict.fromkeys(("at_keys_out", "at_values_out"), _LONGER)
            | {"weights": {0: "batch", 3: "tokens+1"}},
        )

    def _answer(self) -> GraphSpec:
        tensors = (*self.tensors, *self.head_tensors)
        return GraphSpec(
            module=Answer(self.shape),
            inputs=("keys", "values", "cls", "position", "client_token", "client_position", *tensors),
            outputs=("logits",),
            example=(*self._answered(), *self._adapter(tensors)),
            axes={"keys": _HISTORY, "values": _HISTORY, "cls": _BATCH},
        )

    def _answer_vjp(self) -> GraphSpec:
        tensors = (*self.tensors, *self.head_tensors)
        labels = torch.zeros(EXAMPLE_BATCH, dtype=torch.int64)
        return GraphSpec(
            module=AnswerVjp(self.shape),
            inputs=(
                *("labels", "weights", "keys", "values", "cls", "position", "client_token", "client_position"),
                *tensors,
            ),
            outputs=(
                *("loss", "at_cls", "at_keys", "at_values", "at_query", "at_token", "at_position"),
                *(*_norm("norm1"), *_norm("norm2"), *_norm("head.norm")),
                *_rows((*_LINEARS, *self.head_linears)),
            ),
            example=(labels, torch.ones(EXAMPLE_BATCH), *self._answered(), *self._adapter(tensors)),
            axes={"labels": _BATCH, "weights": _BATCH, "keys": _HISTORY, "values": _HISTORY, "cls": _BATCH},
        )

    def _token(self) -> Tensor:
        return torch.zeros(EXAMPLE_BATCH, 1, self.shape.width)

    def _position(self) -> Tensor:
        return torch.zeros(1, self.shape.width)

    def _client(self) -> tuple[Tensor, Tensor]:
        return torch.zeros(self.shape.width), self._position()

    def _kept(self, tokens: int) -> Tensor:
        return torch.zeros(EXAMPLE_BATCH, self.shape.heads, tokens, self.shape.width // self.shape.heads)

    def _answered(self) -> tuple[Tensor, ...]:
        kept = self._kept(_EXAMPLE_TOKENS)
        return kept, kept, self._token(), self._position(), *self._client()

    def _adapter(self, keys: Sequence[str]) -> list[Tensor]:
        adapter = self.network.adapter()
        parts = map(TensorSlice.parse, keys)
        return [adapter[part.name][part.index].detach() for part in parts]


MODULATED = ("modified", "keys_out", "values_out")
"""What `modulate` makes."""

SAVED = ("k", "v", "q", "weights", "read", "y", "hidden")
"""What `modulate_saved` makes for its VJP besides the modified token."""

_LINEARS = ("qkv", "proj", "fc1", "fc2")


def _norm(name: str) -> tuple[str, str]:
    return f"at_{name}", f"at_{name}_bias"


def _rows(linears: Sequence[str]) -> tuple[str, ...]:
    """Return names for the rows of linear layers: of each the gradients at its output, and its inputs."""
    return tuple(f"{name}.{part}" for name in linears for part in ("at", "x"))
