"""Configuration of the Accumulator and its ablations (arXiv 2212.04084, sections 4 and 5, Table 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgefl.errors import BadInputError

__all__ = ["AccumulatorConfig", "paper_mlp_dim"]


def paper_mlp_dim(width: int) -> int:
    """Return the hidden size that reaches the paper's 3.171 M at DeiT-S (2048 at width 384), scaled to a width."""
    return round(2048 * width / 384)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccumulatorConfig:
    """What an Accumulator is made of.

    Attributes:
        width: Size of a token.
        blocks: Blocks of the backbone.
        classes: Number of classes.
        mlp_dim: Hidden size of the Accumulator's FFN and of the head; 1536 at width 384 is the released code.
        heads: Attention heads; must divide `width`.
        depth: Blocks of the Accumulator (the paper's ablation uses 3).
        position_rows: Rows of the position embedding; at least `blocks` + 1, the released code has 25.
        replace: Whether a block's CLS token is replaced by the Accumulator's output before the next block.
        residual: Whether the exit's own CLS token is added to what the head reads.
        head: `mlp` as in the paper, or the ablation `linear`.
        parallel_adapter_rank: Bottleneck of the parallel adapters beside every FFN; 0 for none, the paper has 64.
        parallel_adapter_scale: Factor of a parallel adapter's output.
        init: `small` draws client token and positions with std 0.02 and starts parallel adapters at zero;
            `released` draws N(0, 1) and starts parallel adapters with std 0.02, as the released code does.
    """

    width: int
    blocks: int
    classes: int
    mlp_dim: int
    heads: int = 12
    depth: int = 1
    position_rows: int = 25
    replace: bool = True
    residual: bool = True
    head: Literal["mlp", "linear"] = "mlp"
    parallel_adapter_rank: int = 0
    parallel_adapter_scale: float = 0.1
    init: Literal["small", "released"] = "small"

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "classes", "mlp_dim", "heads", "depth"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.width % self.heads:
            raise BadInputError(
                f"{self.heads} Accumulator heads do not divide the width {self.width}: "
                "pass --accumulator-heads with a number that does"
            )
        if self.position_rows <= self.blocks:
            raise BadInputError(
                f"{self.position_rows} position rows are too few for {self.blocks} blocks and a client token"
            )
        if self.parallel_adapter_rank < 0:
            raise BadInputError(f"parallel adapter rank is {self.parallel_adapter_rank}, expected 0 (none) or more")
