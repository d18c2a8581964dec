"""Programs of the Accumulator method: which graph runs when, with which tensors (edgefl/bundle/FORMAT.md).

Exact savings are in the order of the calls: the exit's block computes one row, blocks below need no backward pass
before block 1 (before block 0 with parallel adapters; none at all where no CLS token is replaced), and nothing is
computed that no one reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgefl.bundle.program import Input, Program
from edgefl.errors import BadInputError
from edgefl_export.graphs.block import Saving
from edgefl_export.graphs.catalog import Catalog
from edgefl_export.keeping_walk import KeepingWalk
from edgefl_export.replacing_walk import ReplacingWalk
from edgefl_export.walk import Walk

__all__ = ["Composer"]


class Composer:
    """Writes the programs of one network.

    Args:
        catalog: The network's graphs.

    Raises:
        BadInputError: If the network has a deeper Accumulator, an ablation that only torch computes, or leaves CLS
            tokens as they are beside parallel adapters.
    """

    def __init__(self, catalog: Catalog) -> None:
        config = catalog.network.config
        if config.depth != 1:
            raise BadInputError(f"a network with depth={config.depth} cannot be exported; use depth=1")
        if not config.replace and catalog.parallel:
            raise BadInputError(
                f"a network with replace=False and parallel adapters of rank {config.parallel_adapter_rank} cannot be "
                "exported, because its blocks would need a backward pass; leave out --no-replace or --parallel-adapters"
            )
        self.catalog = catalog

    def infer(self, exit_index: int) -> Program:
        """Return the program that answers at one exit."""
        walk = self._walk("nothing")
        walk.forward(exit_index)
        walk.answer(exit_index, "logits")
        return Program(
            mode="infer",
            exit_index=exit_index,
            batch=None,
            inputs={"samples": self._samples()},
            calls=walk.calls,
            outputs={"logits": ["logits"]},
        )

    def anytime(self, exits: Sequence[int]) -> Program:
        """Return the program that answers at every exit, shallowest first, in one pass."""
        walk = self._walk("nothing")
        walk.forward(exits[-1], answers={e: f"logits_{e:02d}" for e in exits})
        return Program(
            mode="anytime",
            exit_index=exits[-1],
            batch=None,
            inputs={"samples": self._samples()},
            calls=walk.calls,
            outputs={f"logits_{e:02d}": [f"logits_{e:02d}"] for e in exits},
        )

    def train(self, exit_index: int, batch: int, saving: Saving = "all") -> Program:
        """Return the program that gives loss and gradient at one exit.

        Args:
            exit_index: The exit.
            batch: Samples it takes at once.
            saving: What blocks save on the way down; the rest is computed again on the way back.  Where no CLS token
                is replaced there is nothing to save, and the program is the same.
        """
        walk = self._walk(saving)
        walk.forward(exit_index)
        walk.backward(exit_index)
        return Program(
            mode="train",
            exit_index=exit_index,
            batch=batch,
            inputs={
                "samples": self._samples(),
                "labels": Input(dtype="int64", shape=[None]),
                "weights": Input(dtype="float32", shape=[None]),
            },
            calls=walk.calls,
            outputs={"loss": ["loss"], **walk.gradients},
        )

    def _walk(self, saving: Saving) -> Walk:
        kind = ReplacingWalk if self.catalog.network.config.replace else KeepingWalk
        return kind(self.catalog, saving)

    def _samples(self) -> Input:
        backbone = self.catalog.network.backbone
        return Input(dtype="float32", shape=[None, backbone.channels, backbone.image_size, backbone.image_size])
