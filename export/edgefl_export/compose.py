"""Programs of the Accumulator method: which graph runs when, with which tensors (docs: design of the training step).

Exact savings are in the order of the calls: the exit's block computes one row, blocks below need no backward pass
before block 1 (before block 0 with parallel adapters), and nothing is computed that no one reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgefl.bundle.program import Call, Input, Program
from edgefl.errors import BadInputError
from edgefl_export.graphs.block import Rows
from edgefl_export.graphs.block_vjp import Inputs
from edgefl_export.graphs.catalog import Catalog, block_name, vjp_name

__all__ = ["Composer"]

_POSITIONS = "accumulator.positions"
_CLIENT = "accumulator.client_token"


class Composer:
    """Writes the programs of one network.

    Args:
        catalog: The network's graphs.
        batch: Samples a training program takes at once, None for any number.

    Raises:
        BadInputError: If the network leaves CLS tokens as they are, an ablation that only torch computes.
    """

    def __init__(self, catalog: Catalog, batch: int | None) -> None:
        if not catalog.network.config.replace:
            raise BadInputError("a network with replace=False cannot be exported; use replace=True")
        self.catalog, self.batch = catalog, batch

    def infer(self, exit_index: int) -> Program:
        """Return the program that answers at one exit."""
        walk = _Walk(self.catalog)
        walk.forward(exit_index, save_from=None)
        walk.answer(exit_index, "logits")
        return Program(
            mode="infer",
            exit_index=exit_index,
            batch=None,
            inputs={"samples": self._samples(None)},
            calls=walk.calls,
            outputs={"logits": ["logits"]},
        )

    def anytime(self, exits: Sequence[int]) -> Program:
        """Return the program that answers at every exit, shallowest first, in one pass."""
        walk = _Walk(self.catalog)
        walk.forward(exits[-1], save_from=None, answers={e: f"logits_{e:02d}" for e in exits})
        return Program(
            mode="anytime",
            exit_index=exits[-1],
            batch=None,
            inputs={"samples": self._samples(None)},
            calls=walk.calls,
            outputs={f"logits_{e:02d}": [f"logits_{e:02d}"] for e in exits},
        )

    def train(self, exit_index: int) -> Program:
        """Return the program that gives loss and gradient at one exit."""
        walk = _Walk(self.catalog)
        walk.forward(exit_index, save_from=0 if self.catalog.parallel else 1)
        walk.backward(exit_index)
        return Program(
            mode="train",
            exit_index=exit_index,
            batch=self.batch,
            inputs={
                "samples": self._samples(self.batch),
                "labels": Input(dtype="int64", shape=[self.batch]),
                "weights": Input(dtype="float32", shape=[self.batch]),
            },
            calls=walk.calls,
            outputs={"loss": ["loss"], **walk.gradients},
        )

    def _samples(self, batch: int | None) -> Input:
        backbone = self.catalog.network.backbone
        return Input(dtype="float32", shape=[batch, backbone.channels, backbone.image_size, backbone.image_size])


class _Walk:
    """Calls in order, with the names of what they make."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.calls: list[Call] = []
        self.gradients: dict[str, list[str]] = {}

    def forward(self, exit_index: int, save_from: int | None, answers: dict[int, str] | None = None) -> None:
        """Go down to an exit, saving what a backward pass needs from block `save_from` on, answering on the way."""
        frozen = ("patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed")
        self._call("embed", ["samples", *frozen], ["cls", "patches"])
        self._call("open_history", [_CLIENT, "cls"], ["history.0"])
        cls, patches = "cls", "patches"
        for index in range(exit_index + 1):
            rows: Rows = "cls" if index == exit_index else "all"
            save = save_from is not None and index >= save_from
            made = [f"cls.{index}", f"patches.{index}"][: 2 if rows == "all" else 1]
            saved = [f"{name}.{index}" for name in self.catalog.saved] if save else []
            inputs = [cls, patches, *self.catalog.block_tensors(index)]
            self._call(block_name(rows, save=save), inputs, [*made, *saved])
            if answers and index in answers:
                self.answer(index, answers[index])
            if index < exit_index:
                self._modulate(index)
                cls, patches = f"modified.{index}", f"patches.{index}"

    def answer(self, index: int, name: str) -> None:
        """Answer at a block."""
        tensors = [*self.catalog.accumulator_tensors, *self.catalog.head_tensors]
        self._call("answer", [f"history.{index}", f"cls.{index}", _POSITIONS, *tensors], [name])

    def backward(self, exit_index: int) -> None:
        """Come back from an exit, as far up as anything is trained."""
        self._answer_vjp(exit_index)
        for index in range(exit_index, -1, -1):
            if index == 0 and not self.catalog.parallel:
                break
            self._block_vjp(index, exit_index)
            if index > 0:
                self._modulate_vjp(index - 1)
        self._call("close_history", ["at_history.0"], ["at_client_token"])
        self._collect([_CLIENT], ["at_client_token"])

    def _modulate(self, index: int) -> None:
        inputs = [f"history.{index}", f"cls.{index}", _POSITIONS, *self.catalog.accumulator_tensors]
        self._call("modulate", inputs, [f"modified.{index}", f"history.{index + 1}"])

    def _answer_vjp(self, index: int) -> None:
        tensors = [*self.catalog.accumulator_tensors, *self.catalog.head_tensors]
        made = [f"at.{index}.{name}" for name in (_POSITIONS, *tensors)]
        at_cls = f"at_cls.{index}" if index > 0 or self.catalog.parallel else ""
        self._call(
            "answer_vjp",
            ["labels", "weights", f"history.{index}", f"cls.{index}", _POSITIONS, *tensors],
            ["loss", at_cls, f"at_history.{index}", *made],
        )
        self._collect([f"{_POSITIONS}[0:{index + 2}]", *tensors], made)

    def _block_vjp(self, index: int, exit_index: int) -> None:
        rows: Rows = "cls" if index == exit_index else "all"
        inputs: Inputs = "none" if index == 0 else "cls" if index == 1 and not self.catalog.parallel else "all"
        gradient = [f"at_cls.{index}", f"at_patches.{index}"][: 2 if rows == "all" else 1]
        saved = [f"{name}.{index}" for name in self.catalog.saved]
        at_inputs = [f"at_modified.{index - 1}", f"at_patches.{index - 1}"]
        made = at_inputs[: {"all": 2, "cls": 1, "none": 0}[inputs]]
        parallel = self.catalog.parallel_tensors(index)
        at_parallel = [f"at.{name}" for name in parallel]
        weights = self.catalog.block_tensors(index)
        self._call(vjp_name(rows, inputs), [*gradient, *saved, *weights], [*made, *at_parallel])
        self._collect(parallel, at_parallel)

    def _modulate_vjp(self, index: int) -> None:
        tensors = self.catalog.accumulator_tensors
        made = [f"at.{index}.{name}" for name in (_POSITIONS, *tensors)]
        at_cls = f"at_cls.{index}" if index > 0 or self.catalog.parallel else ""
        self._call(
            "modulate_vjp",
            [
                f"at_modified.{index}",
                f"at_history.{index + 1}",
                f"history.{index}",
                f"cls.{index}",
                _POSITIONS,
                *tensors,
            ],
            [at_cls, f"at_history.{index}", *made],
        )
        self._collect([f"{_POSITIONS}[0:{index + 2}]", *tensors], made)

    def _call(self, graph: str, inputs: list[str], outputs: list[str]) -> None:
        self.calls.append(Call(graph=graph, inputs=inputs, outputs=outputs))

    def _collect(self, keys: Sequence[str], made: Sequence[str]) -> None:
        for key, name in zip(keys, made, strict=True):
            self.gradients.setdefault(key, []).append(name)
