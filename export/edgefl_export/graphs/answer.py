"""What an exit answers, and the VJP of the weighted cross-entropy there (arXiv 2212.04084, section 4.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgefl_export.graphs.accumulator_block import (
    ACCUMULATOR_WEIGHTS,
    EPS,
    AccumulatorBlock,
    AccumulatorShape,
    AccumulatorWeights,
    Reading,
)
from edgefl_export.graphs.derivatives import SQRT_HALF, doubled_gelu_slope, layer_norm_vjp, merge_heads, standardize

__all__ = ["Answer", "AnswerVjp"]


class _Steps(NamedTuple):
    """An exit's way from the history to its logits."""

    keys: Tensor
    values: Tensor
    reading: Reading
    read: Tensor
    norm: Tensor
    first: Tensor
    logits: Tensor


class Answer(nn.Module):
    """The logits of one exit."""

    def __init__(self, shape: AccumulatorShape) -> None:
        super().__init__()
        self.shape, self.block = shape, AccumulatorBlock(shape)

    def forward(
        self,
        keys: Tensor,
        values: Tensor,
        cls: Tensor,
        position: Tensor,
        client_token: Tensor,
        client_position: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        """Return logits (B, C).

        Args:
            keys: Of the history, (B, heads, n, d).
            values: Of the history, (B, heads, n, d).
            cls: The exit's own CLS token, (B, 1, D).
            position: Of that token, (1, D).
            client_token: (D,).
            client_position: (1, D).
            weights: The Accumulator's, then the head's.
        """
        client = (client_token + client_position)[None]
        return self.run(keys, values, cls, position, client, weights).logits

    def run(
        self,
        keys: Tensor,
        values: Tensor,
        cls: Tensor,
        position: Tensor,
        client: Tensor,
        weights: tuple[Tensor, ...],
    ) -> _Steps:
        """Return the logits with everything on the way; `client` is the client token with its position, (1, 1, D)."""
        w, head = self.split(weights)
        key, value = self.block.keep(cls + position, w)
        keys, values = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        row, reading = self.block.read(client, self.block.query(client, w), keys, values, w)
        read = (row + cls if self.shape.residual else row)[:, 0]
        norm = F.layer_norm(read, (self.shape.width,), head[0], head[1], EPS)
        first = F.linear(norm, head[2], head[3])
        logits = F.linear(F.gelu(first), head[4], head[5]) if self.shape.head == "mlp" else first
        return _Steps(keys, values, reading, read, norm, first, logits)

    def split(self, weights: tuple[Tensor, ...]) -> tuple[AccumulatorWeights, tuple[Tensor, ...]]:
        """Return the Accumulator's weights and the head's."""
        end = len(ACCUMULATOR_WEIGHTS)
        return AccumulatorWeights(*weights[:end]), weights[end:]


class AnswerVjp(nn.Module):
    """Weighted cross-entropy at one exit and its gradients."""

    def __init__(self, shape: AccumulatorShape) -> None:
        super().__init__()
        self.answer = Answer(shape)

    def forward(
        self,
        labels: Tensor,
        sample_weights: Tensor,
        keys: Tensor,
        values: Tensor,
        cls: Tensor,
        position: Tensor,
        client_token: Tensor,
        client_position: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the loss and its gradients.

        Args:
            labels: (B,), int64 in [0, C).
            sample_weights: (B,); 0 for padding.
            keys: As given to `Answer`, like all that follow.
            values: As given to `Answer`.
            cls: As given to `Answer`.
            position: As given to `Answer`.
            client_token: As given to `Answer`.
            client_position: As given to `Answer`.
            weights: As given to `Answer`.

        Returns:
            Loss (); gradients at cls, at the history's keys and values, at the client token's query and at the client
            token, these two summed over the samples, (1, 1, D); of the position; of norm1, norm2 and the head's norm,
            weight and bias each; then rows of the Accumulator's and of the head's linears.
        """
        client = (client_token + client_position)[None]
        steps = self.answer.run(keys, values, cls, position, client, weights)
        w, head = self.answer.split(weights)
        losses, at_logits = _cross_entropy(steps.logits, labels, sample_weights)
        at_read, head_norm, head_rows = self._head_vjp(at_logits, steps, head)
        at_row = at_read[:, None]
        block = self.answer.block
        at_client, (at_q, at_k, at_v), norm2, rows = block.read_vjp(at_row, steps.reading, steps.keys, steps.values, w)
        at_token, norm1, qkv_rows = block.keep_vjp(at_k[:, :, -1:], at_v[:, :, -1:], cls + position, w)
        return (
            losses.sum(),
            at_token + at_row if self.answer.shape.residual else at_token,
            at_k[:, :, :-1],
            at_v[:, :, :-1],
            merge_heads(at_q).sum(0, keepdim=True),
            at_client.sum(0, keepdim=True),
            at_token.sum(0),
            *norm1,
            *norm2,
            *head_norm,
            *qkv_rows,
            *rows,
            *head_rows,
        )

    def _head_vjp(
        self, at_logits: Tensor, steps: _Steps, head: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, ...]]:
        """Return the gradients at the head's input and of its norm, and rows of its linears."""
        at_first = at_logits
        rows: tuple[Tensor, ...] = ()
        if self.answer.shape.head == "mlp":
            rows = (at_logits, F.gelu(steps.first))
            at_first = at_logits @ head[4] * 0.5 * doubled_gelu_slope(steps.first * SQRT_HALF)
        at_norm = at_first @ head[2]
        standardized, inverse_std = standardize(steps.read, EPS)
        norm = ((at_norm * standardized).sum(0), at_norm.sum(0))
        return layer_norm_vjp(at_norm * head[0], standardized, inverse_std), norm, (at_first, steps.norm, *rows)


def _cross_entropy(logits: Tensor, labels: Tensor, sample_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted losses (B,) and their gradient at the logits (B, C)."""
    classes = torch.arange(logits.shape[1], device=labels.device)
    target = (labels[:, None] == classes[None]).to(logits.dtype)
    losses = -(torch.log_softmax(logits, dim=-1) * target).sum(-1) * sample_weights
    return losses, (torch.softmax(logits, dim=-1) - target) * sample_weights[:, None]
