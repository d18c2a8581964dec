"""A way through the network, down to an exit and back: which graph runs when, with which tensors.

The names it gives: what a block makes, or what follows it, ends in its index; a gradient begins with `at`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from edgefl.bundle.program import Call
from edgefl_export.graphs.block import Rows, Saving
from edgefl_export.graphs.block_vjp import Inputs
from edgefl_export.graphs.catalog import Catalog, block_name, vjp_name
from edgefl_export.graphs.rows import LINEAR_GRADIENT, stack_name

__all__ = ["POSITIONS", "Walk", "position"]

POSITIONS = "accumulator.positions"
_CLIENT = "accumulator.client_token"


def position(row: int) -> str:
    """Return the key of one row of the positions: 0 is the client token's, l + 1 that of block l."""
    return f"{POSITIONS}[{row}:{row + 1}]"


class Walk(ABC):
    """Calls in order, with the names of what they make; kinds of it differ in what happens between two blocks.

    Args:
        catalog: The network's graphs.
        saving: What blocks that have a way back save for it.

    Attributes:
        calls: The calls so far.
        gradients: For each part of the adapter, the tensors whose sum is its gradient.
    """

    def __init__(self, catalog: Catalog, saving: Saving) -> None:
        self.catalog, self.accumulator, self.saving = catalog, catalog.accumulator, saving
        self.calls: list[Call] = []
        self.gradients: dict[str, list[str]] = {}
        self._linear_rows: dict[str, list[tuple[str, str]]] = {}

    def forward(self, exit_index: int, answers: dict[int, str] | None = None) -> None:
        """Go down to an exit, saving what the way back needs, answering on the way."""
        frozen = ("patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed")
        self._call("embed", ["samples", *frozen], ["cls", "patches"])
        client = [_CLIENT, position(0), *self.accumulator.tensors]
        self._call("open_history", ["cls", *client], ["keys.0", "values.0"])
        cls, patches = "cls", "patches"
        for index in range(exit_index + 1):
            rows: Rows = "cls" if index == exit_index else "all"
            saving = self.saving if self._has_vjp(index) else "nothing"
            made = [f"cls.{index}", f"patches.{index}"][: 2 if rows == "all" else 1]
            saved = [f"{name}.{index}" for name in self.catalog.saved(saving)]
            inputs = [cls, patches, *self.catalog.block_tensors(index)]
            self._call(block_name(rows, saving), inputs, [*made, *saved])
            if answers and index in answers:
                self.answer(index, answers[index])
            if index < exit_index:
                cls, patches = self._remember(index), f"patches.{index}"

    def answer(self, index: int, name: str) -> None:
        """Answer at a block."""
        self._call("answer", self._answered(index), [name])

    def backward(self, exit_index: int) -> None:
        """Come back from an exit, as far up as anything is trained."""
        self._answer_vjp(exit_index)
        for index in range(exit_index, -1, -1):
            if self._has_vjp(index):
                self._block_vjp(index, exit_index)
            if index > 0:
                self._remember_vjp(index - 1)
        self._close_history()
        self._multiply_rows()

    @abstractmethod
    def _has_vjp(self, index: int) -> bool:
        """Whether a block has a backward pass, because anything up to its output is trained."""

    @abstractmethod
    def _remember(self, index: int) -> str:
        """Lengthen the history by a block's token and return the CLS token that the next block reads."""

    @abstractmethod
    def _remember_vjp(self, index: int) -> None:
        """Come back from the history with a block's token, and from the next block, to the history before it."""

    def _history(self, index: int) -> list[str]:
        return [f"keys.{index}", f"values.{index}"]

    def _newest(self, index: int) -> list[str]:
        """Return the history before a block's token, the token and its position."""
        return [*self._history(index), f"cls.{index}", position(index + 1)]

    def _answered(self, index: int) -> list[str]:
        """Return what the answer at a block is made from."""
        tensors = [*self.accumulator.tensors, *self.accumulator.head_tensors]
        return [*self._newest(index), _CLIENT, position(0), *tensors]

    def _at_cls(self, index: int) -> str:
        return f"at_cls.{index}" if self._has_vjp(index) else ""

    def _answer_vjp(self, index: int) -> None:
        norms = [*self._norms("norm1", "norm2"), "head.norm.weight", "head.norm.bias"]
        linears = [*self.accumulator.linears, *self.accumulator.head_linears]
        at_norms = [f"at.answer.{name}" for name in norms]
        at_position = f"at.{POSITIONS}.{index + 1}"
        self._call(
            "answer_vjp",
            ["labels", "weights", *self._answered(index)],
            [
                *("loss", self._at_cls(index), *self._at_history(index), "at_query", "at_token", at_position),
                *(*at_norms, *self._rows(linears, "answer")),
            ],
        )
        self._collect([position(index + 1), *norms], [at_position, *at_norms])

    def _block_vjp(self, index: int, exit_index: int) -> None:
        rows: Rows = "cls" if index == exit_index else "all"
        inputs: Inputs = "none" if index == 0 else "cls" if index == 1 and not self.catalog.parallel else "all"
        gradient = [f"at_cls.{index}", f"at_patches.{index}"][: 2 if rows == "all" else 1]
        saved = [f"{name}.{index}" for name in self.catalog.saved(self.saving)]
        at_inputs = [f"at_modified.{index - 1}", f"at_patches.{index - 1}"]
        made = at_inputs[: {"all": 2, "cls": 1, "none": 0}[inputs]]
        parallel = self.catalog.parallel_tensors(index)
        at_parallel = [f"at.{name}" for name in parallel]
        weights = self.catalog.block_tensors(index)
        self._call(vjp_name(rows, inputs, self.saving), [*gradient, *saved, *weights], [*made, *at_parallel])
        self._collect(parallel, at_parallel)

    def _close_history(self) -> None:
        norms = self._norms("norm1")
        keys = [_CLIENT, position(0), *norms]
        made = [f"at.client.{key}" for key in keys]
        client = [_CLIENT, position(0), *self.accumulator.tensors]
        rows = self._rows([self.accumulator.without_bias], "client")
        self._call("close_history", [*self._at_history(0), "at_query", "at_token", *client], [*made, *rows])
        self._collect(keys, made)

    def _multiply_rows(self) -> None:
        """Make the gradient of each linear layer from the rows that all calls have left."""
        for linear, pairs in self._linear_rows.items():
            gradients, inputs = zip(*pairs, strict=True)
            rows = [self._stack(f"{linear}.at", gradients), self._stack(f"{linear}.x", inputs)]
            bias = [] if linear == self.accumulator.without_bias else [f"{linear}.bias"]
            keys = [f"{linear}.weight", *bias]
            made = [f"at.{key}" for key in keys]
            self._call(LINEAR_GRADIENT, rows, [*made, ""][:2])
            self._collect(keys, made)

    def _stack(self, name: str, rows: Sequence[str]) -> str:
        if len(rows) == 1:
            return rows[0]
        self._call(stack_name(len(rows)), list(rows), [f"{name}.rows"])
        return f"{name}.rows"

    def _at_history(self, index: int) -> list[str]:
        return [f"at_keys.{index}", f"at_values.{index}"]

    def _norms(self, *names: str) -> list[str]:
        return [f"accumulator.blocks.0.{name}.{part}" for name in names for part in ("weight", "bias")]

    def _rows(self, linears: Sequence[str], call: str) -> list[str]:
        """Name the rows that a call leaves for linear layers, and remember them."""
        pairs = [(f"at.{linear}.{call}", f"{linear}.x.{call}") for linear in linears]
        for linear, pair in zip(linears, pairs, strict=True):
            self._linear_rows.setdefault(linear, []).append(pair)
        return [name for pair in pairs for name in pair]

    def _call(self, graph: str, inputs: list[str], outputs: list[str]) -> None:
        self.calls.append(Call(graph=graph, inputs=inputs, outputs=outputs))

    def _collect(self, keys: Sequence[str], made: Sequence[str]) -> None:
        for key, name in zip(keys, made, strict=True):
            self.gradients.setdefault(key, []).append(name)
