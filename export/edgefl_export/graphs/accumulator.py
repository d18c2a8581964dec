"""The Accumulator's calls, forward and VJP, with the adapter's tensors as inputs (arXiv 2212.04084, section 4.2).

The VJP runs the forward again from the history: beside a backbone block that costs little, and nothing is saved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgefl_export.graphs.accumulator_stack import (
    ACCUMULATOR_BLOCK_WEIGHTS,
    EPS,
    AccumulatorShape,
    AccumulatorStack,
    Saved,
)
from edgefl_export.graphs.derivatives import gelu_slope, layer_norm_vjp, linear_gradients, standardize

__all__ = ["Answer", "AnswerVjp", "CloseHistory", "Modulate", "ModulateVjp", "OpenHistory"]


class OpenHistory(nn.Module):
    """Starts the history with the client token, one for each sample."""

    def forward(self, client_token: Tensor, cls: Tensor) -> Tensor:
        """Return (B, 1, D) for the client token (D,) and any CLS token (B, 1, D)."""
        return client_token.expand(cls.shape[0], 1, -1).clone()


class CloseHistory(nn.Module):
    """Gradient of the client token."""

    def forward(self, gradient: Tensor) -> Tensor:
        """Return (D,) for the gradient at the opened history, (B, 1, D)."""
        return gradient.sum((0, 1))


class Modulate(nn.Module):
    """Replaces a block's CLS token by the Accumulator's output for it and appends that to the history."""

    def __init__(self, shape: AccumulatorShape) -> None:
        super().__init__()
        self.stack = AccumulatorStack(shape, row=-1)

    def forward(self, history: Tensor, cls: Tensor, positions: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the modified token (B, 1, D) and the history with it (B, n + 1, D).

        Args:
            history: Client token and modified tokens, (B, n, D).
            cls: The block's own CLS token, (B, 1, D).
            positions: (rows, D), rows > n.
            weights: The Accumulator's.
        """
        modified, _ = self.stack.forward(_with_positions(history, cls, positions), weights)
        return modified, torch.cat([history, modified], dim=1)


class ModulateVjp(nn.Module):
    """VJP of `Modulate`."""

    def __init__(self, shape: AccumulatorShape) -> None:
        super().__init__()
        self.stack = AccumulatorStack(shape, row=-1)

    def forward(
        self, at_modified: Tensor, at_next: Tensor, history: Tensor, cls: Tensor, positions: Tensor, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the gradients at cls and history, of the position rows 0..n, and of the weights.

        Args:
            at_modified: Gradient at the modified token where the next block reads it, (B, 1, D).
            at_next: Gradient at the history with the modified token, (B, n + 1, D).
            history: As given to `Modulate`, (B, n, D).
            cls: As given to `Modulate`.
            positions: As given to `Modulate`.
            weights: As given to `Modulate`.
        """
        _, saved = self.stack.forward(_with_positions(history, cls, positions), weights)
        at_tokens, gradients = self.stack.vjp(at_modified + at_next[:, -1:], saved, weights)
        return at_tokens[:, -1:], at_tokens[:, :-1] + at_next[:, :-1], at_tokens.sum(0), *gradients


class Answer(nn.Module):
    """The logits of one exit."""

    def __init__(self, shape: AccumulatorShape) -> None:
        super().__init__()
        self.shape, self.stack = shape, AccumulatorStack(shape, row=0)

    def forward(self, history: Tensor, cls: Tensor, positions: Tensor, *weights: Tensor) -> Tensor:
        """Return logits (B, C) for a history (B, n, D) and the exit's own CLS token (B, 1, D)."""
        logits, *_ = self.run(history, cls, positions, weights)
        return logits

    def run(
        self, history: Tensor, cls: Tensor, positions: Tensor, weights: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Saved]]:
        """Return logits, the head's input, its LayerNorm, its hidden input (each (B, .)), and what the VJP needs."""
        accumulator, head = self.split(weights)
        row, saved = self.stack.forward(_with_positions(history, cls, positions), accumulator)
        read = (row + cls if self.shape.residual else row)[:, 0]
        norm = F.layer_norm(read, (self.shape.width,), head[0], head[1], EPS)
        first = F.linear(norm, head[2], head[3])
        logits = F.linear(F.gelu(first), head[4], head[5]) if self.shape.head == "mlp" else first
        return logits, read, norm, first, saved

    def split(self, weights: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the Accumulator's weights and the head's."""
        end = self.shape.depth * len(ACCUMULATOR_BLOCK_WEIGHTS)
        return weights[:end], weights[end:]


class AnswerVjp(nn.Module):
    """Weighted cross-entropy at one exit, its gradients at history and CLS token, and those of all weights."""

    def __init__(self, shape: AccumulatorShape) -> None:
        super().__init__()
        self.answer = Answer(shape)

    def forward(
        self, labels: Tensor, sample_weights: Tensor, history: Tensor, cls: Tensor, positions: Tensor, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        """Return loss (), the gradients at cls and history, of the position rows 0..n, and of the weights.

        Args:
            labels: (B,), int64 in [0, C).
            sample_weights: (B,); 0 for padding.
            history: (B, n, D).
            cls: (B, 1, D).
            positions: (rows, D), rows > n.
            weights: The Accumulator's, then the head's.
        """
        logits, read, norm, first, saved = self.answer.run(history, cls, positions, weights)
        accumulator, head = self.answer.split(weights)
        classes = torch.arange(logits.shape[1], device=labels.device)
        target = (labels[:, None] == classes[None]).to(logits.dtype)
        loss = -(torch.log_softmax(logits, dim=-1) * target).sum(-1)
        at_logits = (torch.softmax(logits, dim=-1) - target) * sample_weights[:, None]
        at_read, of_head = self._head_vjp(at_logits, read, norm, first, head)
        at_row = at_read[:, None]
        at_tokens, gradients = self.answer.stack.vjp(at_row, saved, accumulator)
        at_cls = at_tokens[:, -1:] + at_row if self.answer.shape.residual else at_tokens[:, -1:]
        return (loss * sample_weights).sum(), at_cls, at_tokens[:, :-1], at_tokens.sum(0), *gradients, *of_head

    def _head_vjp(
        self, at_logits: Tensor, read: Tensor, norm: Tensor, first: Tensor, head: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the gradient at the head's input and those of its weights."""
        gradients: list[Tensor] = []
        at_first = at_logits
        if self.answer.shape.head == "mlp":
            gradients = [*linear_gradients(at_logits, F.gelu(first))]
            at_first = (at_logits @ head[4]) * gelu_slope(first)
        gradients = [*linear_gradients(at_first, norm), *gradients]
        at_norm = at_first @ head[2]
        standardized, inverse_std = standardize(read, EPS)
        gradients = [(at_norm * standardized).sum(0), at_norm.sum(0), *gradients]
        return layer_norm_vjp(at_norm * head[0], standardized, inverse_std), gradients


def _with_positions(history: Tensor, cls: Tensor, positions: Tensor) -> Tensor:
    tokens = torch.cat([history, cls], dim=1)
    return tokens + positions[: tokens.shape[1]]
