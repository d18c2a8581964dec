"""The Accumulator's history: opened with the client token, lengthened by CLS tokens, closed (arXiv 2212.04084, 4.2).

It travels as the keys and values of its tokens, (B, heads, n, d), the client token's first.  A token's row of the
positions comes as a tensor of its own, (1, D).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefl_export.graphs.accumulator_block import AccumulatorBlock, AccumulatorShape, AccumulatorWeights
from edgefl_export.graphs.derivatives import merge_heads

__all__ = ["AppendHistory", "AppendHistoryVjp", "CloseHistory", "OpenHistory"]


class OpenHistory(nn.Module):
    """Starts the history with the client token."""

    def __init__(self, shape: AccumulatorShape) -> None:
        super().__init__()
        self.block = AccumulatorBlock(shape)

    def forward(self, cls: Tensor, client_token: Tensor, position: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of the client token, one for each sample.

        Args:
            cls: Any CLS token, (B, 1, D).
            client_token: (D,).
            position: (1, D).
            weights: The Accumulator's.
        """
        token = (client_token + position)[None]
        keys, values = self.block.keep(token, AccumulatorWeights(*weights))
        return keys.expand(cls.shape[0], -1, -1, -1).clone(), values.expand(cls.shape[0], -1, -1, -1).clone()


class AppendHistory(nn.Module):
    """Appends a block's own CLS token to the history, where CLS tokens are not replaced (section 5, Table 5)."""

    def __init__(self, shape: AccumulatorShape) -> None:
        super().__init__()
        self.block = AccumulatorBlock(shape)

    def forward(
        self, keys: Tensor, values: Tensor, cls: Tensor, position: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values of the history with the token.

        Args:
            keys: Of the history, (B, heads, n, d).
            values: Of the history, (B, heads, n, d).
            cls: The block's CLS token, (B, 1, D).
            position: (1, D).
            weights: The Accumulator's.
        """
        key, value = self.block.keep(cls + position, AccumulatorWeights(*weights))
        return torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)


class AppendHistoryVjp(nn.Module):
    """VJP of `AppendHistory`, without the gradient at the token: that comes from frozen blocks alone."""

    def __init__(self, shape: AccumulatorShape) -> None:
        super().__init__()
        self.block = AccumulatorBlock(shape)

    def forward(
        self, at_keys_out: Tensor, at_values_out: Tensor, keys: Tensor, cls: Tensor, position: Tensor, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the gradients at keys and values, of the position and norm1, and rows of qkv.

        Args:
            at_keys_out: Gradient at the history's keys with the token, (B, heads, n + 1, d).
            at_values_out: Like `at_keys_out`.
            keys: As given to `AppendHistory`, like all that follow; only their number is read.
            cls: As given to `AppendHistory`.
            position: As given to `AppendHistory`.
            weights: As given to `AppendHistory`.
        """
        parts = [keys.shape[2], 1]
        at_keys, at_key = at_keys_out.split(parts, dim=2)
        at_values, at_value = at_values_out.split(parts, dim=2)
        at_token, norm1, rows = self.block.keep_vjp(at_key, at_value, cls + position, AccumulatorWeights(*weights))
        return at_keys, at_values, at_token.sum(0), *norm1, *rows


class CloseHistory(nn.Module):
    """VJP of everything that reads the client token."""

    def __init__(self, shape: AccumulatorShape) -> None:
        super().__init__()
        self.block = AccumulatorBlock(shape)

    def forward(
        self,
        at_keys: Tensor,
        at_values: Tensor,
        at_query: Tensor,
        at_token: Tensor,
        client_token: Tensor,
        position: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the gradients of client token and position, of norm1, and rows of qkv.

        Args:
            at_keys: Gradient at the history with which the client token is alone, (B, heads, 1, d).
            at_values: Like `at_keys`.
            at_query: Gradient at the client token's query, summed over the samples, (1, 1, D).
            at_token: Gradient at the client token where the exit adds to it, summed over the samples, (1, 1, D).
            client_token: (D,).
            position: (1, D).
            weights: The Accumulator's.
        """
        at_kv = torch.cat([merge_heads(tensor.sum(0, keepdim=True)) for tensor in (at_keys, at_values)], dim=-1)
        token = (client_token + position)[None]
        at_read, norm1, rows = self.block.project_vjp(at_query, at_kv, token, AccumulatorWeights(*weights))
        at_both = (at_read + at_token)[0]
        return at_both[0], at_both, *norm1, *rows
