"""Pieces of a pre-LN transformer and their vector-Jacobian products (VJP), written by hand from plain operators.

Written by hand because a frozen linear layer then costs one product instead of two, nothing is saved that is not
needed, and the operators are ones that ONNX Runtime and XNNPACK have.  Tests compare each with autograd.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "SQRT_HALF",
    "attention",
    "attention_vjp",
    "attention_weights",
    "doubled_gelu_slope",
    "layer_norm_vjp",
    "linear_gradients",
    "merge_heads",
    "split_heads",
    "standardize",
]


SQRT_HALF = math.sqrt(0.5)


def standardize(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return x without its mean and scale over the last axis, and 1 / standard deviation with size 1 there."""
    centred = x - x.mean(-1, keepdim=True)
    inverse_std = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
    return centred * inverse_std, inverse_std


def layer_norm_vjp(gradient: Tensor, standardized: Tensor, inverse_std: Tensor) -> Tensor:
    """Return the gradient at a LayerNorm's input.

    Args:
        gradient: At its output, already multiplied by its weight, (..., D).
        standardized: From `standardize`, (..., D).
        inverse_std: From `standardize`, (..., 1).
    """
    mean = gradient.mean(-1, keepdim=True)
    projection = (gradient * standardized).mean(-1, keepdim=True)
    return inverse_std * (gradient - mean - standardized * projection)


def doubled_gelu_slope(u: Tensor) -> Tensor:
    """Return twice the derivative of the exact GELU at x, 1 + erf(u) + 2 / sqrt(pi) u exp(-u^2), for u = x / sqrt(2).

    Twice, and the factor in the exponent, because each pass over these tensors, the widest of a block, counts: the
    half costs nothing in the matrix product beside it.  The order keeps at most three of them alive.
    """
    density = u * torch.exp(math.log(2.0 / math.sqrt(math.pi)) - u * u)
    return density + torch.erf(u) + 1.0


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return (B, heads, n, D / heads) for (B, n, D)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Return (B, n, D) for (B, heads, n, D / heads)."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return what the queries read, (B, heads, rows, d), and the attention weights, (B, heads, rows, n).

    Args:
        q: Queries, (B, heads, rows, d).
        k: Keys, (B, heads, n, d).
        v: Values, (B, heads, n, d).
        scale: Of the scores.
    """
    weights = attention_weights(q, k, scale)
    return weights @ v, weights


def attention_weights(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Return the attention weights, (B, heads, rows, n), for arguments as `attention` takes them."""
    return torch.softmax(q @ k.transpose(-2, -1) * scale, dim=-1)


def attention_vjp(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, weights: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients at queries, keys and values.

    Args:
        gradient: At what the queries read, (B, heads, rows, d).
        q: As given to `attention`.
        k: As given to `attention`.
        v: As given to `attention`.
        weights: As returned by `attention`.
        scale: As given to `attention`.
    """
    at_weights = gradient @ v.transpose(-2, -1)
    at_scores = weights * (at_weights - (at_weights * weights).sum(-1, keepdim=True))
    return at_scores @ k * scale, at_scores.transpose(-2, -1) @ q * scale, weights.transpose(-2, -1) @ gradient


def linear_gradients(gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a linear layer's weight, (out, in), and bias, (out,).

    Args:
        gradient: At its output, (..., out).
        x: Its input, (..., in).
    """
    rows = gradient.reshape(-1, gradient.shape[-1])
    return rows.transpose(0, 1) @ x.reshape(-1, x.shape[-1]), rows.sum(0)
