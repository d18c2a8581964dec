"""A CLS token modulated by the Accumulator, forward and VJP, its weights as inputs (arXiv 2212.04084, section 4.2).

The history travels as in `graphs/history.py`, and so does a token's position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefl_export.graphs.accumulator_block import AccumulatorBlock, AccumulatorShape, AccumulatorWeights, Reading
from edgefl_export.graphs.derivatives import merge_heads

__all__ = ["Modulate", "ModulateVjp"]


class Modulate(nn.Module):
    """Replaces a block's CLS token by the Accumulator's output for it and appends that to the history."""

    def __init__(self, shape: AccumulatorShape) -> None:
        super().__init__()
        self.block = AccumulatorBlock(shape)

    def forward(
        self, keys: Tensor, values: Tensor, cls: Tensor, position: Tensor, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the modified token (B, 1, D), the history with it, and what the VJP needs.

        Args:
            keys: Of the history, (B, heads, n, d).
            values: Of the history, (B, heads, n, d).
            cls: The block's own CLS token, (B, 1, D).
            position: (1, D).
            weights: The Accumulator's.
        """
        w = AccumulatorWeights(*weights)
        token = cls + position
        k, v = self.block.keep(token, w)
        modified, reading = self.block.read(token, self.block.query(token, w), _append(keys, k), _append(values, v), w)
        kept = self.block.keep(modified + position, w)
        return (modified, _append(keys, kept[0]), _append(values, kept[1]), k, v, *reading)


class ModulateVjp(nn.Module):
    """VJP of `Modulate`."""

    def __init__(self, shape: AccumulatorShape) -> None:
        super().__init__()
        self.block = AccumulatorBlock(shape)

    def forward(
        self,
        at_modified: Tensor,
        at_keys_out: Tensor,
        at_values_out: Tensor,
        keys: Tensor,
        values: Tensor,
        cls: Tensor,
        modified: Tensor,
        *rest: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the gradients at cls, keys and values; of the position, norm1 and norm2; and rows of all linears.

        Args:
            at_modified: Gradient at the modified token where the next block reads it, (B, 1, D).
            at_keys_out: Gradient at the history's keys with the modified token, (B, heads, n + 1, d).
            at_values_out: Like `at_keys_out`.
            keys: As given to `Modulate`.
            values: As given to `Modulate`.
            cls: As given to `Modulate`.
            modified: The modified token.
            rest: What else `Modulate` saved, the position (1, D) and the Accumulator's weights.
        """
        k, v = rest[:2]
        reading, position = Reading(*rest[2:7]), rest[7]
        w = AccumulatorWeights(*rest[8:])
        at_kept, kept_norm1, kept_rows = self.block.keep_vjp(
            at_keys_out[:, :, -1:], at_values_out[:, :, -1:], modified + position, w
        )
        at_token, at_attention, norm2, rows = self.block.read_vjp(
            at_modified + at_kept, reading, _append(keys, k), _append(values, v), w
        )
        at_q, at_k, at_v = at_attention
        at_kv = torch.cat([merge_heads(at_k[:, :, -1:]), merge_heads(at_v[:, :, -1:])], dim=-1)
        at_read, norm1, qkv_rows = self.block.project_vjp(merge_heads(at_q), at_kv, cls + position, w)
        at_cls = at_token + at_read
        return (
            at_cls,
            at_keys_out[:, :, :-1] + at_k[:, :, :-1],
            at_values_out[:, :, :-1] + at_v[:, :, :-1],
            (at_cls + at_kept).sum(0),
            *(kept + own for kept, own in zip(kept_norm1, norm1, strict=True)),
            *norm2,
            *(torch.cat(pair) for pair in zip(kept_rows, qkv_rows, strict=True)),
            *rows,
        )


def _append(kept: Tensor, new: Tensor) -> Tensor:
    return torch.cat([kept, new], dim=2)
