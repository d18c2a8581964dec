"""A way through a network that leaves CLS tokens as its blocks make them (arXiv 2212.04084, Table 5).

Then nothing that a block computes depends on the adapter: no block saves anything or has a backward pass, and the
tokens of the history do not depend on each other.
"""

from __future__ import annotations

from edgefl_export.walk import POSITIONS, Walk, position

__all__ = ["KeepingWalk"]


class KeepingWalk(Walk):
    """Calls in order where only the Accumulator and the head read the adapter; there are no parallel adapters."""

    def _has_vjp(self, index: int) -> bool:
        del index
        return False

    def _remember(self, index: int) -> str:
        self._call("append_history", [*self._newest(index), *self.accumulator.tensors], self._history(index + 1))
        return f"cls.{index}"

    def _remember_vjp(self, index: int) -> None:
        keys, _, *token = self._newest(index)
        norms = self._norms("norm1")
        at_norms = [f"at.{index}.{name}" for name in norms]
        at_position = f"at.{POSITIONS}.{index + 1}"
        rows = self._rows([self.accumulator.without_bias], str(index))
        self._call(
            "append_history_vjp",
            [*self._at_history(index + 1), keys, *token, *self.accumulator.tensors],
            [*self._at_history(index), at_position, *at_norms, *rows],
        )
        self._collect([position(index + 1), *norms], [at_position, *at_norms])
