"""A way through a network where the Accumulator's output for a CLS token replaces it before the next block."""

from __future__ import annotations

from edgefl_export.graphs.accumulator_graphs import SAVED
from edgefl_export.walk import POSITIONS, Walk, position

__all__ = ["ReplacingWalk"]


class ReplacingWalk(Walk):
    """Calls in order where blocks after the first read what the Accumulator has made."""

    def _has_vjp(self, index: int) -> bool:
        return index > 0 or self.catalog.parallel

    def _remember(self, index: int) -> str:
        save = self.saving != "nothing"
        saved = [f"{name}.modulate.{index}" for name in SAVED] if save else []
        made = [f"modified.{index}", *self._history(index + 1), *saved]
        self._call("modulate_saved" if save else "modulate", [*self._newest(index), *self.accumulator.tensors], made)
        return f"modified.{index}"

    def _remember_vjp(self, index: int) -> None:
        norms = self._norms("norm1", "norm2")
        at_norms = [f"at.{index}.{name}" for name in norms]
        at_position = f"at.{POSITIONS}.{index + 1}"
        self._call(
            "modulate_vjp",
            [
                *(f"at_modified.{index}", *self._at_history(index + 1), *self._history(index)),
                *(f"cls.{index}", f"modified.{index}", *(f"{name}.modulate.{index}" for name in SAVED)),
                *(position(index + 1), *self.accumulator.tensors),
            ],
            [
                *(self._at_cls(index), *self._at_history(index), at_position),
                *(*at_norms, *self._rows(self.accumulator.linears, str(index))),
            ],
        )
        self._collect([position(index + 1), *norms], [at_position, *at_norms])
